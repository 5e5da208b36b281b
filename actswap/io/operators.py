"""The operators that an exported program may call: those that compute tensors from tensors and numbers.

Not on the list are operators that read files (`from_file`), print (`_print`, higher-order `print`), change storages
(`set_`, `resize_`, `as_strided`), build sparse or nested tensors without checks, or use packed weights, device-specific
weights, custom objects or TorchScript objects; and every operator of another library.
"""

from __future__ import annotations

import re

import torch

# Elementwise functions, and their in-place variants with an underscore.
_POINTWISE = """
abs absolute acos acosh add addcdiv addcmul angle asin asinh atan atan2 atanh bitwise_and bitwise_left_shift
bitwise_not bitwise_or bitwise_right_shift bitwise_xor ceil celu clamp clamp_max clamp_min clip copysign cos cosh
deg2rad digamma div divide elu eq erf erfc erfinv exp exp2 expm1 fill float_power floor floor_divide fmax fmin fmod
frac ge gelu greater greater_equal gt hardshrink hardsigmoid hardswish hardtanh hypot i0 isfinite isinf isnan
isneginf isposinf ldexp le leaky_relu lerp less less_equal lgamma log log10 log1p log2 log_sigmoid
log_sigmoid_forward logaddexp logaddexp2 logical_and logical_not logical_or logical_xor logit lt masked_fill maximum
minimum mish mul multiply nan_to_num ne neg negative nextafter not_equal positive pow prelu _prelu_kernel rad2deg
reciprocal relu relu6 remainder round rrelu rsqrt rsub selu sgn sigmoid sign signbit silu sin sinc sinh softplus
softshrink special_entr special_erfcx special_expit special_log_ndtr special_ndtr sqrt square sub subtract tan tanh
tanhshrink threshold true_divide trunc where xlogy zero isclose heaviside
"""
_SHAPES = """
alias chunk clone concat concatenate contiguous constant_pad_nd copy cat channel_shuffle native_channel_shuffle diag
diag_embed diagonal diagonal_scatter detach dstack expand expand_as flatten flip fliplr flipud hstack lift
lift_fresh lift_fresh_copy matrix_H mH mT moveaxis movedim narrow numpy_T pad permute pixel_shuffle pixel_unshuffle
ravel reflection_pad1d reflection_pad2d reflection_pad3d repeat repeat_interleave replication_pad1d
replication_pad2d replication_pad3d reshape reshape_as _reshape_alias roll rot90 row_stack select select_scatter
slice slice_scatter split split_with_sizes squeeze stack swapaxes swapdims t T tensor_split tile transpose tril triu
unbind unflatten unfold unsafe_chunk unsafe_split unsafe_split_with_sizes unsqueeze _unsafe_view view view_as
view_as_complex view_as_real vstack hsplit vsplit dsplit block_diag broadcast_tensors broadcast_to atleast_1d
atleast_2d atleast_3d column_stack
"""
_REDUCTIONS = """
all amax amin aminmax any argmax argmin argsort count_nonzero cummax cummin cumprod cumsum logcumsumexp logsumexp
max mean median min mode msort nanmean nanmedian nansum norm prod sort std std_mean sum topk trace var var_mean
kthvalue linalg_vector_norm linalg_norm linalg_matrix_norm frobenius_norm nuclear_norm quantile log_softmax
_log_softmax softmax _softmax _safe_softmax softmin
"""
_PRODUCTS = """
addbmm addmm addmv addr baddbmm bilinear bmm cdist chain_matmul conv1d conv2d conv3d conv_transpose1d
conv_transpose2d conv_transpose3d convolution _convolution cosine_similarity cross dist dot einsum ger inner kron
linalg_cross linalg_multi_dot linear matmul matrix_power mm mv outer pairwise_distance scaled_dot_product_attention
tensordot vdot _scaled_dot_product_flash_attention_for_cpu linalg_inv linalg_det linalg_solve inverse det
"""
_LAYERS = """
adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d
adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d affine_grid_generator alpha_dropout avg_pool1d
avg_pool2d avg_pool3d batch_norm col2im dropout embedding embedding_bag _embedding_bag feature_alpha_dropout
feature_dropout fractional_max_pool2d fractional_max_pool3d glu grid_sampler grid_sampler_2d grid_sampler_3d
group_norm gru gru_cell im2col instance_norm layer_norm lstm lstm_cell max_pool1d max_pool1d_with_indices max_pool2d
max_pool2d_with_indices max_pool3d max_pool3d_with_indices native_batch_norm _native_batch_norm_legit
_native_batch_norm_legit_functional _native_batch_norm_legit_no_training native_dropout native_group_norm
native_layer_norm rms_norm _fused_rms_norm rnn_relu rnn_tanh rnn_relu_cell rnn_tanh_cell upsample_bicubic2d
upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d
_upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact1d _upsample_nearest_exact2d
_upsample_nearest_exact3d _weight_norm _weight_norm_interface cross_entropy_loss nll_loss nll_loss_nd mse_loss
l1_loss smooth_l1_loss huber_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div local_response_norm
"""
_INDEXING = """
bucketize embedding_renorm gather index index_add index_copy index_fill index_put index_select isin masked_scatter
masked_select meshgrid nonzero one_hot scatter scatter_add scatter_reduce searchsorted take take_along_dim
tril_indices triu_indices
"""
_MAKING = """
arange bernoulli complex empty empty_like empty_strided eye full full_like linspace logspace new_empty
new_empty_strided new_full new_ones new_zeros ones ones_like polar rand rand_like randn randn_like randint randperm
scalar_tensor zeros zeros_like hann_window
"""
_NUMBERS = """
_assert_async _assert_scalar _assert_tensor_metadata _local_scalar_dense _to_copy _conj angle conj imag is_complex
is_floating_point is_nonzero item numel real resolve_conj resolve_neg sym_constrain_range
sym_constrain_range_for_size sym_is_contiguous sym_numel sym_size sym_storage_offset sym_stride to type_as
_shape_as_tensor to_dtype
"""
_FOURIER = """
fft_fft fft_fft2 fft_fftn fft_fftshift fft_ifft fft_ifft2 fft_ifftn fft_ifftshift fft_irfft fft_irfft2 fft_irfftn
fft_rfft fft_rfft2 fft_rfftn stft istft _fft_c2c _fft_c2r _fft_r2c
"""

ATEN = frozenset(
    " ".join((_POINTWISE, _SHAPES, _REDUCTIONS, _PRODUCTS, _LAYERS, _INDEXING, _MAKING, _NUMBERS, _FOURIER)).split()
)
_OTHERS = {
    "prims": {"convert_element_type", "broadcast_in_dim", "iota", "view_of", "sum", "amax", "amin", "rsqrt", "where"},
    "torchvision": {"nms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d"},
    "quantized_decomposed": {
        f"{way}_per_{kind}" for way in ("quantize", "dequantize") for kind in ("tensor", "channel", "token")
    },
    "higher_order": {"cond", "wrap_with_set_grad_enabled", "wrap_with_autocast"},
}
_PYTHON = re.compile(
    r"_operator\.(add|sub|mul|floordiv|truediv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|not_|getitem)"
    r"|math\.(ceil|floor|trunc|sqrt)"
    r"|torch\.sym_(int|float|max|min|not|ite|sum|sqrt)|torch\._sym_sqrt"
)
# Overloads that torch.export never writes, and whose kernels crash on arguments that do not fit each other.
_UNCHECKED_OVERLOADS = """
lstm.data gru.data rnn_tanh.data rnn_relu.data to.prim_Device to.prim_dtype to.prim_other
_native_batch_norm_legit_functional.default
"""
_UNCHECKED = frozenset(_UNCHECKED_OVERLOADS.split())
_ENUMERATIONS = ("ScalarType", "Layout", "MemoryFormat", "Device", "Generator", "QScheme")
_OPERATOR = re.compile(r"torch\.ops\.(\w+)\.(\w+)(\.\w+)?")


def is_allowed(target: str) -> bool:
    """Return True for an operator that only computes.

    >>> is_allowed("torch.ops.aten.relu_.default"), is_allowed("torch.ops.aten.from_file.default")
    (True, False)
    """
    if _PYTHON.fullmatch(target):
        return True
    match = _OPERATOR.fullmatch(target)
    if match is None:
        return False
    home, name = match[1], match[2]
    if home == "actswap":
        return True
    if home == "aten" and f"{name}{match[3] or ''}" in _UNCHECKED:
        return False
    if home == "aten":
        return name in ATEN or (name.endswith("_") and name[:-1] in ATEN)
    return name in _OTHERS.get(home, ())


def takes_enumeration(target: str) -> frozenset[str]:
    """Return the names of an operator's arguments that are a dtype, a layout, a memory format or a device.

    torch hands any whole number on as one of these, and the kernels read beyond their tables.

    >>> sorted(takes_enumeration("torch.ops.aten.to.dtype"))
    ['dtype', 'memory_format']
    """
    match = _OPERATOR.fullmatch(target)
    if match is None:
        return frozenset()
    packet = getattr(getattr(torch.ops, match[1]), match[2], None)
    overload = getattr(packet, (match[3] or ".default")[1:], None)
    arguments = getattr(getattr(overload, "_schema", None), "arguments", ())
    return frozenset(a.name for a in arguments if any(word in str(a.real_type) for word in _ENUMERATIONS))
