// A host for programs without their own thread pool: it runs a call on a small persistent pool of std::thread.
#pragma once
#include "actswap_kernels.h"
#ifdef __cplusplus
extern "C" {
#endif
// Runs all phases on at most `threads` threads, including the caller's. Returns 0 if it ran, 1 if the check refused the
// call, 2 if there is no memory for the workspace.
ACTSWAP_API int actswap_host_run(const actswap_call *call, int threads);
#ifdef __cplusplus
}
#endif
