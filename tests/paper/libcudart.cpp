// A CUDA runtime of paper, for tests only: what nvcc's objects of csrc/cuda and their bindings call, over the libcuda of
// paper (libcuda.cpp) in place of NVIDIA's. The module _paper_cuda is those objects as they are in fastdarts._C: what it
// launches is what a GPU would be given, read from the binary that nvcc made.
#include <cuda.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <cstring>
#include <map>
#include <string>
#include <vector>

namespace py = pybind11;
using namespace py::literals;

namespace fastdarts {
void bind_stencil_cuda(py::module_& module);  // csrc/bindings/stencil_cuda.cpp
}

extern "C" {
const char* paper_said();
long long paper_launched(int kernel);
int paper_kernels();
const char* paper_name(int kernel);
int paper_parameters(int kernel);
}

namespace {

struct dim3 {
    unsigned x, y, z;
};

struct Function {
    std::string name;
    CUfunction function;
};

struct Launched {
    std::string kernel;
    unsigned blocks, threads;
    std::size_t shared;
    int parameters;
};

struct Configuration {
    dim3 grid, block;
    std::size_t shared;
    void* stream;
};

std::map<const void*, Function> functions;  // by the host's stub
std::vector<Configuration> pushed;
std::vector<Launched> launches;
int last_error = 0;

int said(CUresult status) {
    if (status != CUDA_SUCCESS) last_error = static_cast<int>(status);
    return static_cast<int>(status);
}

// The machine code in one of nvcc's fat binaries: a header, then parts with a header each; kind 2 is an ELF.
const unsigned char* machine_code(const unsigned char* fat) {
    const auto read = [](const unsigned char* from, auto& to) { std::memcpy(&to, from, sizeof to); };
    std::uint16_t header, kind;
    std::uint32_t part_header;
    std::uint64_t bytes, part_bytes;
    read(fat + 6, header), read(fat + 8, bytes);
    for (const unsigned char *part = fat + header, *end = part + bytes; part < end; part += part_header + part_bytes) {
        read(part, kind), read(part + 4, part_header), read(part + 8, part_bytes);
        if (kind == 2 && std::memcmp(part + part_header, "\177ELF", 4) == 0) return part + part_header;
    }
    return nullptr;
}

int launch(const Function& kernel, dim3 grid, dim3 block, std::size_t shared, void** arguments) {
    CUlaunchConfig config{};
    config.gridDimX = grid.x, config.gridDimY = grid.y, config.gridDimZ = grid.z;
    config.blockDimX = block.x, config.blockDimY = block.y, config.blockDimZ = block.z;
    config.sharedMemBytes = static_cast<unsigned>(shared);
    const CUresult status = cuLaunchKernelEx(&config, kernel.function, arguments, nullptr);
    if (status == CUDA_SUCCESS) {
        int parameters = 0;
        for (int i = 0; i < paper_kernels(); ++i)
            if (kernel.name == paper_name(i)) parameters = paper_parameters(i);
        launches.push_back({kernel.name, grid.x, block.x, shared, parameters});
    }
    return said(status);
}

std::vector<py::tuple> taken() {
    std::vector<py::tuple> found;
    for (const Launched& each : launches)
        found.push_back(py::make_tuple(each.kernel, each.blocks, each.threads, each.shared, each.parameters));
    launches.clear();
    return found;
}

// A launch of a kernel that has its arguments, whatever they are, of other sizes; what is said against it.
std::string refusal(const std::string& part_of_name, unsigned blocks, unsigned threads, std::size_t shared) {
    static std::uint64_t anything[8192];
    std::vector<void*> arguments(64, anything);
    for (const auto& [stub, kernel] : functions)
        if (kernel.name.find(part_of_name) != std::string::npos) {
            const int status = launch(kernel, {blocks, 1, 1}, {threads, 1, 1}, shared, arguments.data());
            last_error = 0;
            return status == 0 ? "" : paper_said();
        }
    throw py::key_error(part_of_name);
}

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void* wrapper) {
    const unsigned char* fat;
    std::memcpy(&fat, static_cast<unsigned char*>(wrapper) + 8, sizeof fat);
    const unsigned char* const code = machine_code(fat);
    CUmodule module = nullptr;
    if (code != nullptr && cuModuleLoadData(&module, code) != CUDA_SUCCESS) module = nullptr;
    return reinterpret_cast<void**>(module);  // device.cu has no kernel, and so no module
}
void __cudaRegisterFatBinaryEnd(void**) {}
void __cudaUnregisterFatBinary(void**) {}
void __cudaRegisterFunction(void** module, const char* stub, char*, const char* name, int, void*, void*, void*, void*,
                            int*) {
    CUfunction function = nullptr;
    said(cuModuleGetFunction(&function, reinterpret_cast<CUmodule>(module), name));
    functions[stub] = {name, function};
}
unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, std::size_t shared, void* stream) {
    pushed.push_back({grid, block, shared, stream});
    return 0;
}
int __cudaPopCallConfiguration(dim3* grid, dim3* block, std::size_t* shared, void** stream) {
    const Configuration last = pushed.back();
    pushed.pop_back();
    *grid = last.grid, *block = last.block, *shared = last.shared, *stream = last.stream;
    return 0;
}
int __cudaGetKernel(const void** kernel, const void* stub) {
    *kernel = stub;
    return functions.count(stub) != 0 ? 0 : said(CUDA_ERROR_NOT_FOUND);
}
int __cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, std::size_t shared, void*) {
    return launch(functions.at(kernel), grid, block, shared, arguments);
}
int cudaFuncSetAttribute(const void* stub, int attribute, int value) {
    return said(cuFuncSetAttribute(functions.at(stub).function, static_cast<CUfunction_attribute>(attribute), value));
}
int cudaGetDevice(int* device) { return *device = 0; }
int cudaSetDevice(int device) { return device == 0 ? 0 : said(CUDA_ERROR_INVALID_DEVICE); }
int cudaGetDeviceCount(int* count) { return *count = 1, 0; }
int cudaGetLastError() {
    const int error = last_error;
    last_error = 0;
    return error;
}
const char* cudaGetErrorString(int) { return paper_said(); }

}  // extern "C"

PYBIND11_MODULE(_paper_cuda, module) {
    fastdarts::bind_stencil_cuda(module);
    module.def("launches", &taken, "(mangled kernel, blocks, threads, bytes of shared memory, of parameters) of each "
               "since the last call.");
    module.def("refusal", &refusal, "kernel"_a, "blocks"_a, "threads"_a, "shared"_a);
}
