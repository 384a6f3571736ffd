// What bounds every design, measured without torch: the FMA rate, and what a kernel of a graph costs when it does
// nothing. Built and called by bench/gpu/ceilings.py; each function returns a figure, or the negative CUDA error code.
#include <cuda_runtime.h>

#include <algorithm>
#include <vector>

namespace {

constexpr int kThreads = 256;
constexpr int kChains = 8;  // independent multiply-adds a thread: more than the pipeline's four cycles need
constexpr int kSteps = 1 << 14;

#define TRY(call)                                                     \
    do {                                                              \
        if (const cudaError_t error = (call); error != cudaSuccess) { \
            return -static_cast<double>(error);                       \
        }                                                             \
    } while (0)

__global__ void multiply_add(float* out, float factor, float term) {
    float value[kChains];
    for (int i = 0; i < kChains; ++i) {
        value[i] = static_cast<float>(threadIdx.x + i);
    }
#pragma unroll 16
    for (int step = 0; step < kSteps; ++step) {
#pragma unroll
        for (int i = 0; i < kChains; ++i) {
            value[i] = fmaf(value[i], factor, term);
        }
    }
    float sum = 0.0f;
    for (int i = 0; i < kChains; ++i) {
        sum += value[i];
    }
    out[blockIdx.x * kThreads + threadIdx.x] = sum;
}

// With the attribute of the dependent launch the next kernel may start at once, and waits here for what this one wrote.
__global__ void nothing(bool early) {
#if __CUDA_ARCH__ >= 900
    if (early) {
        cudaTriggerProgrammaticLaunchCompletion();
        cudaGridDependencySynchronize();
    }
#endif
}

__global__ void barriers(unsigned* arrived, int count) {
    for (int barrier = 1; barrier <= count; ++barrier) {
        __syncthreads();
        if (threadIdx.x == 0) {
            __threadfence();
            atomicAdd(arrived, 1u);
            while (atomicAdd(arrived, 0u) < static_cast<unsigned>(barrier) * gridDim.x) {
            }
        }
        __syncthreads();
    }
}

// Milliseconds of the fastest of some runs.
template <typename Run>
double fastest(Run run, cudaStream_t stream) {
    cudaEvent_t start, end;
    TRY(cudaEventCreate(&start));
    TRY(cudaEventCreate(&end));
    std::vector<float> times;
    for (int round = 0; round < 20; ++round) {
        TRY(cudaEventRecord(start, stream));
        TRY(run());
        TRY(cudaEventRecord(end, stream));
        TRY(cudaEventSynchronize(end));
        float milliseconds = 0.0f;
        TRY(cudaEventElapsedTime(&milliseconds, start, end));
        times.push_back(milliseconds);
    }
    TRY(cudaEventDestroy(start));
    TRY(cudaEventDestroy(end));
    return *std::min_element(times.begin(), times.end());
}

double multiprocessors() {
    int device = 0, count = 0;
    TRY(cudaGetDevice(&device));
    TRY(cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device));
    return count;
}

}  // namespace

// FLOP/s of float32 multiply-adds, two each.
extern "C" double probe_fma() {
    const double count = multiprocessors();
    if (count < 0) {
        return count;
    }
    const int blocks = static_cast<int>(count) * 8 * 4;
    float* out = nullptr;
    cudaStream_t stream;
    TRY(cudaMalloc(&out, sizeof(float) * blocks * kThreads));
    TRY(cudaStreamCreate(&stream));
    const double milliseconds = fastest(
        [&] {
            multiply_add<<<blocks, kThreads, 0, stream>>>(out, 0.999f, 0.001f);
            return cudaGetLastError();
        },
        stream);
    TRY(cudaStreamDestroy(stream));
    TRY(cudaFree(out));
    return milliseconds < 0 ? milliseconds : 2.0 * blocks * kThreads * kChains * kSteps / milliseconds * 1e3;
}

// Seconds of one of `count` dependent empty kernels in a graph; `early`: with programmatic dependent launch.
extern "C" double probe_graph(int count, int early) {
    cudaStream_t stream;
    TRY(cudaStreamCreate(&stream));
    cudaLaunchAttribute attribute = {};
    attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attribute.val.programmaticStreamSerializationAllowed = 1;
    cudaLaunchConfig_t config = {};
    config.gridDim = dim3(132);
    config.blockDim = dim3(kThreads);
    config.stream = stream;
    config.attrs = &attribute;
    config.numAttrs = early ? 1 : 0;
    TRY(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    for (int i = 0; i < count; ++i) {
        TRY(cudaLaunchKernelEx(&config, nothing, early != 0));
    }
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    TRY(cudaStreamEndCapture(stream, &graph));
    TRY(cudaGraphInstantiate(&executable, graph, 0));
    const double milliseconds = fastest([&] { return cudaGraphLaunch(executable, stream); }, stream);
    TRY(cudaGraphExecDestroy(executable));
    TRY(cudaGraphDestroy(graph));
    TRY(cudaStreamDestroy(stream));
    return milliseconds < 0 ? milliseconds : milliseconds / 1e3 / count;
}

// Seconds of one barrier over the whole grid, one block a multiprocessor.
extern "C" double probe_barrier(int count) {
    const double blocks = multiprocessors();
    if (blocks < 0) {
        return blocks;
    }
    unsigned* arrived = nullptr;
    cudaStream_t stream;
    TRY(cudaMalloc(&arrived, sizeof(unsigned)));
    TRY(cudaStreamCreate(&stream));
    void* arguments[] = {&arrived, &count};
    const double milliseconds = fastest(
        [&]() -> cudaError_t {
            const cudaError_t cleared = cudaMemsetAsync(arrived, 0, sizeof(unsigned), stream);
            if (cleared != cudaSuccess) {
                return cleared;
            }
            const dim3 grid(static_cast<unsigned>(blocks));
            return cudaLaunchCooperativeKernel(barriers, grid, dim3(kThreads), arguments, 0, stream);
        },
        stream);
    TRY(cudaStreamDestroy(stream));
    TRY(cudaFree(arrived));
    return milliseconds < 0 ? milliseconds : milliseconds / 1e3 / count;
}
