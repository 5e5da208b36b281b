// The part of the C ABI of DLPack 1.x that reading a tensor needs (https://dmlc.github.io/dlpack, c_api and
// c_exchange_api). From torch 2.10 on, torch.Tensor.__dlpack_c_exchange_api__ is a capsule of the table below.
#pragma once
#include <stdint.h>

#define ACTSWAP_DLPACK_CAPSULE "dlpack_exchange_api"
enum { DLPACK_MAJOR = 1, DLPACK_CPU = 1, DLPACK_FLOAT = 2, DLPACK_BFLOAT = 4 };

typedef struct {
    void *data;
    int32_t device_type, device_id;
    int32_t ndim;
    uint8_t code, bits;
    uint16_t lanes;
    int64_t *shape, *strides;
    uint64_t byte_offset;
} DLTensor;

typedef struct DLPackTable {
    uint32_t major, minor;
    struct DLPackTable *older;
    void *allocate, *to_managed, *from_managed;
    int (*read)(void *py_object, DLTensor *out);  // borrowed; -1 and a Python exception if there is no plain memory
    void *stream;
} DLPackTable;
