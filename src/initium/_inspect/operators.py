"""What the operators do, as sets of their ATen names: the only place that knows them.

Names are those of the composite operators that arrive below autograd, without the overload and
without a trailing underscore for the in-place form.
"""

from __future__ import annotations

__all__ = [
    "ATTENTION",
    "CONVOLUTION",
    "DROPOUT",
    "ELEMENTWISE",
    "FACTORY",
    "LOOKUP",
    "MOVEMENT",
    "NORM",
    "POOL",
    "PRODUCT",
    "RANDOM",
    "RECURRENT",
    "ROUTING",
    "SELECTION",
    "SOFTMAX",
]


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


FACTORY = _names(
    """arange zeros ones full empty eye scalar_tensor linspace logspace tril_indices triu_indices
    zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty empty_strided
    new_empty_strided rand randn randint rand_like randn_like randint_like randperm normal
    hann_window hamming_window blackman_window bartlett_window _efficientzerotensor"""
)
"""Results do not depend on the contents of any operand, only on shapes."""

RANDOM = _names(
    """rand randn randint rand_like randn_like randint_like randperm normal bernoulli uniform
    dropout native_dropout feature_dropout alpha_dropout feature_alpha_dropout multinomial
    exponential poisson log_normal geometric cauchy random"""
)

MOVEMENT = _names(
    """view _unsafe_view reshape _reshape_alias view_as reshape_as permute transpose t numpy_T mT
    adjoint matrix_H expand expand_as squeeze unsqueeze flatten unflatten contiguous clone alias
    detach select slice narrow split split_with_sizes chunk unbind tensor_split unsafe_split
    unsafe_chunk unsafe_split_with_sizes unfold as_strided movedim moveaxis swapaxes swapdims repeat
    tile flip roll rot90 index_select gather index _unsafe_index take_along_dim masked_select
    diagonal pixel_shuffle pixel_unshuffle channel_shuffle constant_pad_nd pad reflection_pad1d
    reflection_pad2d replication_pad1d replication_pad2d replication_pad3d to _to_copy type_as
    lift_fresh view_as_real view_as_complex real im2col col2im narrow_copy positive broadcast_to
    repeat_interleave square_identity copy _conj _conj_physical resolve_conj"""
)
"""Outputs are elements of the first operand, moved, selected, repeated, padded or cast."""

SELECTION = _names(
    """select slice narrow split split_with_sizes chunk unbind tensor_split unsafe_split
    unsafe_chunk unsafe_split_with_sizes index index_select narrow_copy"""
)
"""Movement that takes a part of its operand."""

DROPOUT = _names(
    "dropout native_dropout feature_dropout alpha_dropout feature_alpha_dropout bernoulli"
)

NORM = _names(
    """layer_norm native_layer_norm group_norm native_group_norm batch_norm native_batch_norm
    _native_batch_norm_legit _native_batch_norm_legit_functional cudnn_batch_norm
    _batch_norm_impl_index _batch_norm_with_update instance_norm rms_norm _fused_rms_norm
    local_response_norm"""
)

POOL = _names(
    """avg_pool1d avg_pool2d avg_pool3d max_pool1d max_pool2d max_pool3d max_pool1d_with_indices
    max_pool2d_with_indices max_pool3d_with_indices adaptive_avg_pool1d adaptive_avg_pool2d
    adaptive_avg_pool3d _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d
    adaptive_max_pool2d adaptive_max_pool3d mean sum amax nansum upsample_nearest1d
    upsample_nearest2d upsample_nearest3d upsample_bilinear2d upsample_bicubic2d upsample_linear1d
    upsample_trilinear3d _upsample_nearest_exact2d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
    grid_sampler grid_sampler_2d index_add scatter_add scatter index_put cumsum index_reduce
    masked_scatter slice_scatter select_scatter"""
)
"""Linear (or nearly so) in the data, and without weights."""

ROUTING = _names("topk argmax sort one_hot multinomial argsort")
"""Indices, or a mask, of what is largest."""

SOFTMAX = _names("softmax _softmax log_softmax _log_softmax _safe_softmax sparsemax")

ATTENTION = _names(
    """scaled_dot_product_attention _scaled_dot_product_flash_attention
    _scaled_dot_product_efficient_attention _scaled_dot_product_flash_attention_for_cpu
    _scaled_dot_product_attention_math _scaled_dot_product_cudnn_attention"""
)

CONVOLUTION = _names(
    """conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution
    _convolution conv_tbc"""
)

PRODUCT = _names("linear matmul mm bmm addmm addmv mv baddbmm addbmm einsum _grouped_mm dot vdot")
"""Contractions of two operands."""

LOOKUP = _names("embedding embedding_bag _embedding_bag")

RECURRENT = _names("lstm gru rnn_tanh rnn_relu lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")

ELEMENTWISE = _names(
    """add sub rsub mul div true_divide floor_divide remainder fmod pow square sqrt rsqrt exp exp2
    expm1 log log2 log10 log1p neg negative abs sign reciprocal sin cos tan asin acos atan sinh cosh
    tanh sigmoid relu relu6 leaky_relu elu selu celu gelu silu mish softplus hardswish hardsigmoid
    hardtanh hardshrink softshrink tanhshrink log_sigmoid log_sigmoid_forward threshold rrelu
    rrelu_with_noise prelu _prelu_kernel softsign erf erfc erfinv clamp clamp_min clamp_max clip
    minimum maximum where lerp addcmul addcdiv ceil floor round trunc frac logit xlogy sinc
    special_expit special_erf special_xlog1py nan_to_num masked_fill logaddexp sgn subtract multiply
    divide absolute atan2 hypot logical_not bitwise_not eq ne lt le gt ge logical_and logical_or"""
)
