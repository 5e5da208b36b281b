"""Sources and sites are plain values: equal if they say the same, and whole in JSON."""

from __future__ import annotations

import json
import subprocess
import sys

from actswap.sites import Site, Source


def test_a_source_does_not_depend_on_the_order_of_its_constants() -> None:
    one, other = Source.of("hardtanh", low=-1.0, high=1.0), Source.of("hardtanh", high=1.0, low=-1.0)
    assert one == other and hash(one) == hash(other)
    assert one.get("low") == -1.0 and one.get("slope", 0.3) == 0.3
    assert one != Source.of("hardtanh", low=-2.0, high=1.0)


def test_a_source_is_shown_with_its_constants() -> None:
    assert str(Source("relu")) == "relu"
    assert str(Source.of("prelu", slope=(0.1, 0.2, 0.3))) == "prelu(slope[3])"


def test_json_of_a_site_holds_constants_formula_and_trained_names() -> None:
    source = Source("formula", (("p0", 1.5),), "x * sigmoid(p0 * x)", (("p0", "block.beta"),))
    site = Site("block", source, "activation", "formula", "block", "island", shape=(2, 3), ordinal=1)
    data = json.loads(json.dumps(site.to_dict()))
    trained = [["p0", "block.beta"]]
    assert data["source"] == {"kind": "formula", "p0": 1.5, "formula": "x * sigmoid(p0 * x)", "trained": trained}
    assert (data["name"], data["how"], data["shape"], data["ordinal"]) == ("block", "island", [2, 3], 1)


def test_sites_are_read_without_torch() -> None:
    program = "import sys, actswap.sites; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
