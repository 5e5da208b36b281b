"""Every start keeps its promise: exact to rounding, limits within their bound, fits as measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from actswap import activations
from actswap.activations.base import StartContext
from actswap.activations.bounded import Bounded, split
from actswap.activations.fitted import as_function
from actswap.activations.plain import PLAIN, evaluate
from actswap.activations.sharpness import GAP
from actswap.errors import StartError, UsageError
from actswap.fit.acon import fit_acon
from actswap.fit.histogram import Histogram
from actswap.fit.orthogonal import fit_orthogonal
from actswap.fit.rational import fit_pade
from actswap.sites import Source, Start

ACONS = ["swish", "acon_a", "acon_b", "acon_c", "acon_frelu", "meta_acon"]
TWO_LINES = ["acon_b", "acon_c", "acon_frelu", "meta_acon"]
DYNAMIC = ["dy_relu_a", "dy_relu_b", "dy_relu_c"]
SLOPES = (0.2, 1.0, 1.5, -0.3)


def begun(name: str, source: Source, beta: float = 100.0, **options: object) -> tuple[torch.nn.Module, Start]:
    spec = activations.get(name)
    start = spec.start(source, StartContext(beta, None, options))
    module = spec.build(4, 1, **options).double()
    module.load_start(start.params)
    return module, start


def grid(width: float = 4.0) -> torch.Tensor:
    """(2, 4, 1, n) inputs that hold 0 and, for every beta here, the places of the largest error."""
    line = torch.linspace(-width, width, 8001, dtype=torch.float64)
    return line.reshape(1, 1, 1, -1).expand(2, 4, 1, -1).contiguous()


def error(module: torch.nn.Module, source: Source, x: torch.Tensor) -> torch.Tensor:
    return (module(x) - evaluate(source, x)).detach().abs()


@pytest.mark.parametrize("beta", [1.0, 30.0, 1000.0])
@pytest.mark.parametrize("name", ACONS)
def test_acon_for_relu_reaches_its_bound_and_no_more(name: str, beta: float) -> None:
    """max |x sigmoid(beta x) - relu(x)| = 0.2784645 / beta, at beta |x| = 1.2784645."""
    module, start = begun(name, Source("relu"), beta)
    assert start.kind == "limit" == activations.get(name).promise(Source("relu"))
    assert start.bound == pytest.approx(0.2784645427610738 / beta, rel=1e-12)
    x = torch.tensor([1.2784645427610738 / beta, -1.2784645427610738 / beta, 0.0, 7.0], dtype=torch.float64)
    found = error(module, Source("relu"), x.reshape(1, 1, 1, -1).expand(2, 4, 1, -1))
    # log beta is stored in float32: beta itself is off by a relative 1e-6 at most.
    assert found.max().item() == pytest.approx(start.bound, rel=2e-6)
    assert error(module, Source("relu"), grid()).max() <= start.bound * (1 + 2e-6)


@pytest.mark.parametrize("name", TWO_LINES)
def test_acon_for_prelu_slopes_of_every_kind(name: str) -> None:
    """Slopes below 0, between, exactly 1 and above 1; the bound does not depend on them."""
    source = Source.of("prelu", slope=SLOPES)
    module, start = begun(name, source, 50.0)
    found = error(module, source, grid()).amax((0, 2, 3))
    assert start.kind == "limit" and start.bound == pytest.approx(GAP / 50)
    assert (found <= start.bound * (1 + 2e-6)).all()
    # Slope 1 is linear; float32 slopes stored (0.2) differ from the source's by 1e-8 relative.
    assert found[1] < 1e-6
    for channel in (0, 2, 3):
        assert found[channel].item() == pytest.approx(start.bound, rel=5e-3)


@pytest.mark.parametrize("name", TWO_LINES)
@pytest.mark.parametrize("slope", [0.01, 0.25, 1.0, 2.0])
def test_acon_for_leaky_relu(name: str, slope: float) -> None:
    source = Source.of("leaky_relu", slope=slope)
    module, start = begun(name, source, 200.0)
    assert start.kind == ("exact" if slope == 1.0 else "limit")
    assert error(module, source, grid()).max() <= start.bound * (1 + 2e-6) + 1e-6


@pytest.mark.parametrize("name", ACONS)
@pytest.mark.parametrize(
    "source",
    [
        Source("silu"),
        Source("quick_gelu"),
        Source.of("swish", beta=1.5),
        Source.of("swish", beta=(1.0, 2.0, -1.0, 0.5)),
    ],
    ids=str,
)
def test_acon_for_swish_is_exact(name: str, source: Source) -> None:
    module, start = begun(name, source)
    assert start.kind == "exact" == activations.get(name).promise(source)
    # Float32 storage of log beta: x sigmoid(beta x) moves by at most 0.44 / beta per relative change of beta.
    assert error(module, source, grid()).max() < 1e-6


@pytest.mark.parametrize("space", ["channel", "layer", "pixel"])
@pytest.mark.parametrize("pool", ["mean", "sum"])
def test_meta_acon_start_does_not_depend_on_the_input(space: str, pool: str) -> None:
    module, _ = begun("meta_acon", Source("silu"), space=space, pool=pool)
    x = grid()
    x[1] += 100.0
    assert error(module, Source("silu"), x).max() < 1e-12


def test_meta_acon_start_trains() -> None:
    """fc2 gets a gradient at once; fc1 follows when fc2 has left zero."""
    module, _ = begun("meta_acon", Source("relu"), 10.0)
    module(torch.randn(4, 4, 5, 5, dtype=torch.float64)).square().sum().backward()
    assert module.fc2.weight.grad.abs().max() > 0 and module.p1.grad.abs().max() > 0


@pytest.mark.parametrize("name", ACONS)
@pytest.mark.parametrize("kind", ["softplus", "sigmoid", "hardsigmoid", "star_relu", "logsigmoid"])
def test_acon_refuses_what_is_not_zero_at_zero(name: str, kind: str) -> None:
    assert activations.get(name).promise(Source(kind)) == "none"
    with pytest.raises(StartError, match="at 0"):
        begun(name, Source(kind))


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("k", [2, 3, 4])
@pytest.mark.parametrize(
    "source",
    [
        Source("relu"),
        Source.of("leaky_relu", slope=0.25),
        Source.of("prelu", slope=(0.25, 1.0, 0.0, -0.5)),
        Source("identity"),
    ],
    ids=str,
)
def test_dy_relu_is_exact(name: str, k: int, source: Source) -> None:
    module, start = begun(name, source, k=k)
    assert start.kind == "exact" == activations.get(name).promise(source)
    x = grid() + torch.randn(2, 4, 1, 1, dtype=torch.float64)
    # A and B to the bit (slopes are powers of two); C carries the rounding of 1/n sums in the softmax.
    assert error(module, source, x).max() <= (1e-12 if name == "dy_relu_c" else 0.0)


@pytest.mark.parametrize("name", DYNAMIC)
def test_dy_relu_relu_is_exact_in_float32(name: str) -> None:
    module, _ = begun(name, Source("relu"))
    x = torch.randn(3, 4, 7, 9)
    torch.testing.assert_close(module.float()(x), x.relu(), rtol=1e-6 * (name == "dy_relu_c"), atol=0)


@pytest.mark.parametrize("name", DYNAMIC)
@pytest.mark.parametrize("source", [Source.of("prelu", slope=SLOPES), Source("tanh"), Source("sigmoid")], ids=str)
def test_dy_relu_refuses_what_is_not_convex(name: str, source: Source) -> None:
    """A maximum of lines is convex: slopes above 1 bend the other way."""
    assert activations.get(name).promise(source) == "none"
    with pytest.raises(StartError, match="convex"):
        begun(name, source)


def test_dy_relu_of_one_line_cannot_be_relu() -> None:
    with pytest.raises(StartError, match="bend"):
        begun("dy_relu_b", Source("relu"), k=1)


def test_dy_relu_c_without_compensation_is_a_third() -> None:
    module = activations.get("dy_relu_c").build(4, 1, gain=1.0).double()
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    torch.testing.assert_close(module(x), x.relu() / 3)


@pytest.mark.parametrize("kind", ["gelu", "hardswish", "mish", "elu"])
@pytest.mark.parametrize("name", ["pau", "opau", "hp1"])
def test_pade_fits_hold_beyond_a_narrow_range(name: str, kind: str) -> None:
    """Straight tails with the slopes of the asymptotes: off by the distance to the asymptote, at most |f|'s bend."""
    spec = activations.get(name)
    start = spec.start(Source(kind), StartContext(histogram=Histogram.uniform(-0.5, 0.5)))
    module = spec.build(4, 1).double()
    module.load_start(start.params)
    # Within +-0.5 these functions are at most 1.25 away from their asymptotes, and bend by less than that beyond.
    assert start.kind == "fit" and error(module, Source(kind), grid(12.0)).max() < 2.5


@pytest.mark.parametrize("kind", ["gelu", "hardswish", "silu", "tanh", "mish"])
@pytest.mark.parametrize("spread", [0.1, 1.0, 4.0])
@pytest.mark.parametrize("target", ["pau", "hp2", "acon_c"])
def test_fits_in_a_start_cost_at_most_a_twentieth_of_the_free_fit(target: str, spread: float, kind: str) -> None:
    """The RMS error on the data, against the fitter's own without range, ends or guards."""
    source, spec = Source(kind), activations.get(target)
    if spec.promise(source) != "fit":
        assert kind == "silu" and target == "acon_c"
        return
    values = np.random.default_rng(1).normal(0.1, spread, 4000)
    h, f = Histogram.of(values), as_function(source)
    start = spec.start(source, StartContext(histogram=h))
    free = {
        "pau": lambda: min(fit_pade(f, h.centroids, h.weights, form=form).rms_error for form in "AB"),
        "hp2": lambda: fit_orthogonal(f, h.centroids, h.weights, "hermite_phys").rms_error,
        "acon_c": lambda: fit_acon(f, h.centroids, h.weights).rms_error,
    }[target]()
    # What float32 cannot tell apart counts as equal.
    rounding = np.finfo(np.float32).eps / 2 * np.sqrt(h.weights @ f(h.centroids) ** 2)
    assert start.rms is not None and start.rms <= max(1.05 * free, rounding)
    module = spec.build(1, 1).double()
    module.load_start(start.params)
    found = module(torch.from_numpy(values)[:, None, None]).detach().flatten().numpy() - f(values)
    # The plan's figure is that of the module on the data, up to the width of a bin and float32 coefficients.
    assert np.sqrt(np.mean(found**2)) <= 1.05 * start.rms + 4 * rounding


def test_a_fit_that_is_wrong_beyond_the_data_says_so() -> None:
    """A hardswish is a parabola on [-3, 3]: fitted on a part of it, ACON-C is far from it at infinity."""
    note = (
        activations.get("acon_c").start(Source("hardswish"), StartContext(histogram=Histogram.uniform(-0.5, 0.5))).note
    )
    assert "beyond the data it is off by up to" in note


def test_acon_fits_are_the_best_there_are() -> None:
    """RMS on an even [-5, 5], against known optima; the weight beyond the range costs up to 2 %."""
    best = {"gelu": 7.4e-3, "gelu_tanh": 7.5e-3, "hardswish": 0.059, "mish": 4.9e-2, "elu": 0.127}
    for kind, rms in best.items():
        start = activations.get("acon_c").start(Source(kind), StartContext(histogram=Histogram.uniform(-5, 5)))
        assert start.rms <= 1.02 * rms


PADE = ["pau", "opau", "hp1", "hp2"]


@pytest.mark.parametrize("name", PADE)
@pytest.mark.parametrize("kind", ["gelu", "hardswish", "tanh", "sigmoid"])
def test_pade_error_is_what_the_start_says(name: str, kind: str) -> None:
    """In float32 too: on the range of the fit the error is the reported one."""
    histogram = Histogram.uniform(-4.0, 3.0)
    spec = activations.get(name)
    start = spec.start(Source(kind), StartContext(histogram=histogram))
    module = spec.build(4, 1)
    module.load_start(start.params)
    x = grid().float()
    inside = error(module, Source(kind), x)[(x >= -4) & (x <= 3)]
    assert start.kind == "fit" and start.error is not None and start.rms is not None
    # Float32 evaluation: coefficients of orthogonal bases cancel, to some 1e-4 of the values.
    assert inside.max() <= start.error + 3e-4
    assert start.rms <= start.error


@pytest.mark.parametrize("form", ["A", "B", "unsafe", "C", "D"])
def test_pau_forms(form: str) -> None:
    histogram = Histogram.uniform(-4.0, 4.0)
    spec = activations.get("pau")
    start = spec.start(Source("mish"), StartContext(histogram=histogram, options={"form": form}))
    module = spec.build(4, 1, form=form).eval()
    module.load_start(start.params)
    assert module.form == form and module.poles() == [()]
    x = grid()
    assert error(module, Source("mish"), x).max() <= start.error + 1e-4


@pytest.mark.parametrize("degrees", [(3, 2), (7, 6)])
@pytest.mark.parametrize("name", PADE)
def test_pade_degrees(name: str, degrees: tuple[int, int]) -> None:
    spec = activations.get(name)
    context = StartContext(histogram=Histogram.uniform(-3, 3), options={"degrees": degrees})
    module = spec.build(4, 1, degrees=degrees)
    start = spec.start(Source("silu"), context)
    module.load_start(start.params)
    x = grid(3.0).float()
    assert error(module, Source("silu"), x).max() <= start.error + 1e-3


def test_pade_tails_are_the_asymptotes() -> None:
    """Ten times beyond the range the error is that of the asymptote, not that of a rational."""
    spec = activations.get("pau")
    for kind in ("relu", "gelu", "tanh", "hardswish"):
        start = spec.start(Source(kind), StartContext(histogram=Histogram.uniform(-5, 5)))
        module = spec.build(None, 1)
        module.load_start(start.params)
        x = torch.tensor([[-50.0, 50.0]])
        edge = error(module, Source(kind), torch.tensor([[-5.0, 5.0]])).max()
        # Beyond the range a line continues the unit from its end: the error there is that of the end.
        assert error(module, Source(kind), x).max() <= edge + 0.02


def test_pade_per_channel_follows_each_slope() -> None:
    source = Source.of("prelu", slope=(0.1, 0.5, 0.1, -0.2))
    spec, options = activations.get("pau"), {"per_channel": True}
    context = StartContext(histogram=Histogram.uniform(-2, 2), options=options)
    start = spec.start(source, context)
    module = spec.build(4, 1, **options)
    module.load_start(start.params)
    x = grid(2.0).float()
    assert error(module, source, x).max() <= start.error + 1e-4
    with pytest.raises(StartError, match="per_channel"):
        spec.start(source, StartContext(histogram=Histogram.uniform(-2, 2), options={"per_channel": False}))


@pytest.mark.parametrize("target", ["pau", "opau", "hp1", "hp2"])
def test_a_source_that_differs_by_channel_widens_a_pade_unit_that_is_not_told_its_sharing(target: str) -> None:
    """list --starts promises a fit for PReLU, so the default options must have one."""
    source, spec = Source.of("prelu", slope=(0.1, 0.5, 0.1, -0.2)), activations.get(target)
    start = spec.start(source, StartContext(histogram=Histogram.uniform(-2, 2)))
    module = spec.build(4, 1)
    module.load_start(start.params)
    x = grid(2.0).float()
    assert error(module, source, x).max() <= start.error + 1e-4
    shared = spec.build(4, 1)
    shared.load_start(spec.start(Source("relu"), StartContext(histogram=Histogram.uniform(-2, 2))).params)
    assert shared.channels is None


@pytest.mark.parametrize("source", [Source("relu6"), Source.of("hardtanh", low=-1.0, high=2.0)], ids=str)
@pytest.mark.parametrize("name", [*ACONS, *DYNAMIC, *PADE])
def test_capped_sources_keep_their_cap(name: str, source: Source) -> None:
    core, shift, cap = split(source)
    with pytest.raises(StartError, match="Bounded"):
        begun(name, source)
    module, start = begun(name, core, 1e4)
    bounded = Bounded(module, shift, cap)
    x = grid(9.0)
    assert bounded(x).max() <= cap
    limit = start.bound if start.bound is not None else start.error
    assert error(bounded, source, x).max() <= limit * (1 + 2e-6) + 1e-12
    assert activations.get(name).promise(source) == activations.get(name).promise(core)


def test_split_reassembles_every_plain_activation() -> None:
    x = torch.linspace(-9, 9, 1001, dtype=torch.float64).reshape(1, -1)
    for kind in PLAIN:
        core, shift, cap = split(Source(kind))
        rebuilt = torch.clamp(evaluate(core, x - shift) + shift, max=cap)
        torch.testing.assert_close(rebuilt, evaluate(Source(kind), x))


@pytest.mark.parametrize("name", ["swish", "acon_a", "acon_b", "acon_c", "meta_acon", "pau", "opau", "hp1", "hp2"])
def test_one_set_per_layer_or_per_channel(name: str) -> None:
    """`per_channel` decides the sharing; what differs by channel cannot start a shared unit."""
    spec = activations.get(name)
    sizes = [sum(p.numel() for p in spec.build(4, 1, per_channel=own).parameters()) for own in (False, True)]
    assert sizes[0] < sizes[1]
    start = spec.start(Source("silu"), StartContext(options={"per_channel": False}))
    module = spec.build(4, 1, per_channel=False)
    module.load_start(start.params)
    source = Source.of("swish", beta=(1.0, 2.0, 3.0, 4.0))
    with pytest.raises(StartError, match="per_channel"):
        spec.start(source, StartContext(options={"per_channel": False}))


def test_table_of_starts() -> None:
    table = activations.starts_table()
    assert len(table) == len(PLAIN) * len(activations.TRAINABLE)
    assert table["relu", "acon_c"] == "limit" and table["silu", "meta_acon"] == "exact"
    assert table["relu", "dy_relu_b"] == "exact" and table["relu6", "dy_relu_b"] == "exact"
    assert table["gelu", "acon_c"] == "fit" and table["gelu", "pau"] == "fit"
    assert table["sigmoid", "acon_c"] == "morph" and table["tanh", "dy_relu_a"] == "morph"
    assert set(table.values()) == {"exact", "limit", "fit", "morph"}


@pytest.mark.parametrize("name", [spec.name for spec in activations.TRAINABLE])
def test_what_is_promised_is_what_start_gives(name: str) -> None:
    """For every plain source: the start has the promised kind, or there is none."""
    spec = activations.get(name)
    for kind in PLAIN:
        core = split(Source(kind)).core
        promise = spec.promise(core)
        context = StartContext(histogram=Histogram.uniform(-2.0, 2.0, 64))
        if promise == "none":
            with pytest.raises(StartError):
                spec.start(core, context)
            continue
        start = spec.start(core, context)
        module = spec.build(4, 1)
        module.load_start(start.params)
        assert start.kind == promise
        if start.error is not None:
            assert math.isfinite(start.error)
        assert module(torch.randn(2, 4, 3, 3)).isfinite().all()


@pytest.mark.parametrize("kind", ["max_sigmoid", "cos_minus", "min_sin", "atan2_minus", "max_tanh", "sinc_plus"])
def test_plain_targets_preserve_only_themselves(kind: str) -> None:
    spec = activations.get(kind)
    assert spec.promise(Source(kind)) == "exact" and spec.promise(Source("relu")) == "none"
    with pytest.raises(StartError, match="morph"):
        spec.start(Source("relu"), StartContext())
    x = torch.linspace(-4, 4, 101, dtype=torch.float64).reshape(1, -1)
    assert torch.equal(spec.build(None, 1)(x), evaluate(Source(kind), x))


def test_plain_names_of_the_same_function() -> None:
    assert activations.get("silu").promise(Source.of("swish", beta=1.0)) == "exact"
    assert activations.get("relu").promise(Source.of("prelu", slope=0.0)) == "exact"
    assert activations.get("leaky_relu").promise(Source.of("prelu", slope=0.2)) == "none"


def test_unknown_name_names_the_nearest() -> None:
    with pytest.raises(UsageError, match="meta_acon"):
        activations.get("meta_acn")


def test_start_of_the_wrong_width_is_refused() -> None:
    start = activations.get("acon_c").start(Source.of("prelu", slope=SLOPES), StartContext())
    with pytest.raises(UsageError, match="channels=4"):
        activations.get("acon_c").build(5, 1).load_start(start.params)
