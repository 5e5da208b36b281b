/* A host for programs without a thread pool of their own: runs a call on a small persistent pool of std::thread. */
#ifndef ACTSWAP_HOST_H
#define ACTSWAP_HOST_H
#include "actswap_kernels.h"
#ifdef __cplusplus
extern "C" {
#endif
/* Runs all phases on at most `threads` threads, the caller's included. 0 where done, else the call was refused. */
ACTSWAP_API int actswap_host_run(const actswap_call *call, int threads);
#ifdef __cplusplus
}
#endif
#endif
