// The shapes of a node's inputs against each other. The function bodies of actswap/onnx/functions.py say what fits.
#include "node.h"

#include <algorithm>

namespace actswap {
namespace {

constexpr int64_t MOST_HIDDEN = 1 << 24;  // of a gate; the core counts them in 32 bits

// True if a tensor of these axes, without the first `lead`, broadcasts to x and leaves its shape. `to` then also spans
// the axes along which the tensor varies.
bool broadcasts(const Dims &dims, size_t lead, const Dims &x, Channels *to) {
    if (dims.size() < lead || dims.size() - lead > x.size()) return false;
    const size_t offset = x.size() - (dims.size() - lead);
    for (size_t i = lead; i < dims.size(); ++i) {
        const int64_t axis = int64_t(offset + i - lead);
        if (dims[i] == 1) continue;
        if (dims[i] != x[size_t(axis)]) return false;
        *to = to->none() ? Channels{axis, axis + 1} : Channels{std::min(to->first, axis), std::max(to->last, axis + 1)};
    }
    return true;
}

// True if a tensor is n numbers along its last axis, (n) or (1, n).
bool is_row(const Dims &dims, int64_t n) {
    return (dims.size() == 1 || (dims.size() == 2 && dims[0] == 1)) && dims.back() == n;
}

bool is_matrix(const Dims &dims, int64_t rows) { return dims.size() == 2 && dims[0] == rows; }

// Whether a shape that the node names is 0 (as it is) or x's number of samples, then these sizes.
bool names(const Dims &shape, int64_t samples, const Dims &rest) {
    return shape.size() == rest.size() + 1 && (shape[0] == 0 || shape[0] == samples) &&
           std::equal(rest.begin(), rest.end(), shape.begin() + 1);
}

// True if `axes` are exactly those from `first` to the rank, without `left` (-1: none is left out).
bool covers(const Dims &axes, int64_t rank, int64_t left) {
    std::vector<bool> seen(size_t(rank), false);
    for (int64_t axis : axes) {
        if (axis < -rank || axis >= rank) return false;
        const size_t at = size_t(axis < 0 ? axis + rank : axis);
        if (at == 0 || int64_t(at) == left || seen[at]) return false;
        seen[at] = true;
    }
    return int64_t(axes.size()) == rank - 1 - (left >= 0);
}

const char *check_elementwise(const Definition &op, const std::vector<Tensor> &in, const Dims &x, Channels *to) {
    const int bottom = op.degree_q + (op.kind == Kind::PAU && op.form == 3);
    const int64_t count[] = {op.degree_p + 1, bottom, 5};
    for (size_t i = 0; i < in.size(); ++i) {
        if (op.rational() && (in[i].dims.empty() || in[i].dims[0] != count[i]))
            return "actswap: the coefficients or tails are not as many as the operator's name says";
        if (!broadcasts(in[i].dims, op.rational(), x, to)) return "actswap: a parameter does not broadcast to x";
    }
    return nullptr;
}

// The node of an operator that pools, as it stands in a portable file: there the body goes by these attributes.
const char *check_pooling(const Attributes &a, const Dims &x, int64_t dim, int64_t features, int64_t width) {
    const int64_t rank = int64_t(x.size()), channels = x[size_t(dim)];
    const bool whole = features == 1 && covers(a.axes, rank, -1);
    if (!whole && !(features == channels && covers(a.axes, rank, dim)))
        return "actswap: axes and weights do not agree on what is pooled";
    Dims view(size_t(rank - 1), 1);
    view[size_t(dim - 1)] = width;
    return names(a.view, x[0], view) ? nullptr : "actswap: view is not the shape of one value per sample and channel";
}

// The two layers of a gate: w1 (H, features), b1 (H), w2 (rows, H), b2 (rows).
const char *check_layers(const Tensor *layer, int64_t features, int64_t channels, bool given) {
    const Dims &w1 = layer[0].dims, &w2 = layer[2].dims;
    if (w1.size() != 2 || w1[0] < 1 || w1[0] > MOST_HIDDEN || (!given && features != channels && features != 1))
        return "actswap: the first weights do not fit the channels";
    if (!is_row(layer[1].dims, w1[0])) return "actswap: the first biases do not fit their weights";
    if (w2.size() != 2 || w2[1] != w1[0]) return "actswap: the second weights do not fit the first ones";
    return nullptr;
}

const char *check_meta_acon(const Attributes &a, const std::vector<Tensor> &in, const Dims &x, int64_t dim, bool bare) {
    const int64_t channels = x[size_t(dim)], rows = in[5].dims[0];
    const Dims &scale = in[2].dims;
    if (rows != 1 && rows != channels) return "actswap: the second weights do not fit the channels";
    if (!is_row(in[6].dims, rows) && in[6].size() != 1) return "actswap: the second biases do not fit their weights";
    if (in[6].dims.size() > 2) return "actswap: the second biases have too many axes";
    if (!scale.empty() && !is_row(scale, 1) && !is_row(scale, channels))
        return "actswap: the scale does not fit the channels";
    if (bare) return nullptr;
    return check_pooling(a, x, dim, in[3].dims[1], std::max(rows, in[2].size()));
}

const char *check_dy_relu(const Definition &op, const Attributes &a, const std::vector<Tensor> &in, const Dims &x,
                          int64_t dim, bool bare) {
    const int64_t channels = x[size_t(dim)], lines = 2 * op.pieces, rows = in[2].dims[0];
    const Dims &init = in[4].dims;
    if (rows != lines && rows != lines * channels) return "actswap: the second weights do not fit lines and channels";
    if (!is_row(in[3].dims, rows)) return "actswap: the second biases do not fit their weights";
    if (!is_matrix(init, lines) || (init[1] != 1 && init[1] != channels))
        return "actswap: init does not fit lines and channels";
    if (!is_matrix(in[5].dims, lines) || in[5].dims[1] != 1) return "actswap: lambdas are not one for each coefficient";
    if (bare) return nullptr;
    if (!names(a.table, x[0], {lines, rows / lines})) return "actswap: table is not the shape of the gates";
    return check_pooling(a, x, dim, in[0].dims[1], std::max(rows / lines, init[1]));
}

const char *check_attention(const Attributes &a, const std::vector<Tensor> &in, const Dims &x, int64_t dim, bool bare) {
    Channels along;
    if (!broadcasts(in[6].dims, 0, x, &along) || !(along.none() || (along.first == dim && along.last == dim + 1)))
        return "actswap: the attention's weights do not fit the channels";
    if (in[7].size() != 1 || in[7].dims.size() > x.size()) return "actswap: the attention has one bias";
    const int64_t rank = int64_t(x.size());
    if (bare || (a.channel.size() == 1 && (a.channel[0] == dim || a.channel[0] == dim - rank))) return nullptr;
    return "actswap: the attention sums over another axis than the channels";
}

const char *check_gated(const Definition &op, const Attributes &a, const std::vector<Tensor> &in, const Tensor &mean,
                        const Dims &x, Channels *to) {
    const int64_t rank = int64_t(x.size()), dim = a.dim < 0 ? a.dim + rank : a.dim;
    if (dim < 1 || dim >= rank) return "actswap: an operator that pools has its channels on an axis behind the samples";
    const bool meta = op.kind == Kind::META_ACON, bare = a.block || op.given;  // of a prepared file
    *to = {dim, dim + 1};
    const Tensor *layers = in.data() + (meta ? 3 : 0);
    if (layers[0].dims.size() != 2) return "actswap: the first weights are no matrix";
    const int64_t features = layers[0].dims[1];
    if (const char *wrong = check_layers(layers, features, x[size_t(dim)], op.given)) return wrong;
    if (op.given && (mean.missing() || mean.dims.empty() || mean.dims[0] != x[0] || features < 1 ||
                     features > MOST_HIDDEN || mean.size() != x[0] * features))
        return "actswap: the means do not suit the weights";
    for (size_t i = 0; meta && i < 2; ++i) {
        Channels along;
        if (!broadcasts(in[i].dims, 0, x, &along) || !(along.none() || (along.first == dim && along.last == dim + 1)))
            return "actswap: a parameter does not fit the channels";
    }
    if (meta) return check_meta_acon(a, in, x, dim, bare);
    if (const char *wrong = check_dy_relu(op, a, in, x, dim, bare)) return wrong;
    return op.kind == Kind::DY_RELU_C ? check_attention(a, in, x, dim, bare) : nullptr;
}

}  // namespace

const char *check(const Definition &op, const Attributes &attributes, const std::vector<Tensor> &in, const Tensor &mean,
                  const Dims &x, Channels *to) {
    *to = {};
    for (const Tensor &parameter : in)
        if (parameter.missing()) return "actswap: a parameter is missing";
    const int64_t block = attributes.block;
    if (block && block != 8 && block != 16) return "actswap: blocks have 8 or 16 channels";
    if (block && (x.size() != 4 || x[1] % block)) return "actswap: x is not in whole blocks of channels";
    if (attributes.cap != INFINITY && op.kind == Kind::DY_RELU_C) return "actswap: DY-ReLU C has no cap";
    const char *wrong = op.pools() ? check_gated(op, attributes, in, mean, x, to) : check_elementwise(op, in, x, to);
    if (wrong) return wrong;
    if (block && !to->none() && (to->first != 1 || to->last != 2))
        return "actswap: in blocks the channels are on axis 1";
    return nullptr;
}

const char *check_numbers(const Definition &op, const std::vector<Tensor> &in) {
    if (!op.rational()) return nullptr;
    const Tensor &tails = in[2];
    const int64_t width = tails.size() / 5;
    for (int64_t i = 0; i < width; ++i)
        if (!(tails.data[width + i] <= tails.data[2 * width + i])) return "actswap: a range ends before it begins";
    return nullptr;
}

}  // namespace actswap
