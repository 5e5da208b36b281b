// A node's parameters as the kernel core takes them.
#pragma once
#include "actswap_kernels.h"
#include "node.h"

#include <cstdlib>
#include <memory>
#include <vector>

namespace actswap {

struct Free {
    void operator()(void *p) const { std::free(p); }
};

// The part of a call that follows from the parameters and the sizes of the channels' axes, and the memory it points to.
// If the parameters are constants of the model, the first run makes it and the others use it.
struct Arranged {
    Dims sizes;           // of the channels' axes
    size_t trailing = 0;  // axes of x behind them
    int64_t width = 1;    // channels
    actswap_call call = {};
    std::vector<std::unique_ptr<float[]>> buffers;
    // Of an operator that does not pool: the workspace after the phase that writes the parameter table.
    std::unique_ptr<void, Free> work;

    // The node's parameters, in the order of its inputs after x, once `check` has passed them. What will be `kept` for
    // other runs may take some time.
    Arranged(const Definition &op, const Attributes &attributes, const std::vector<Tensor> &parameters,
             const Channels &channels, const Dims &x, bool kept);
    // True if the parameters would be arranged alike for another shape of x.
    bool suits(const Attributes &attributes, const Channels &channels, const Dims &x) const;

    float *buffer(int64_t size);
    void set(int slot, const float *data, int64_t size) { call.param[slot] = data, call.param_size[slot] = size; }

  private:
    void fill(const Definition &op, const Attributes &attributes, const std::vector<Tensor> &in, bool kept);
    const float *broadcast(const Tensor &tensor, size_t lead, int64_t rows);
    void parameter(int slot, const Tensor &tensor);
    void coefficients(int slot, const Tensor &tensor);
    const float *repeated(const float *data, int64_t rows, int64_t n, int64_t times, float factor = 1);
    const float *turned(const float *data, int64_t rows, int64_t n);
    void layers(const Tensor *layer, int first, bool given, int64_t rows, bool spread, bool kept);
    void meta_acon(const Definition &op, const std::vector<Tensor> &in, bool kept);
    void dy_relu(const Definition &op, const Attributes &attributes, const std::vector<Tensor> &in, bool kept);
};

}  // namespace actswap
