// A libcuda.so.1 of paper, for tests only: what Triton's driver calls, for a GPU with the numbers of an H200 that runs
// nothing. Modules are real cubins, read for what a launch must respect; every launch is checked against that and the
// device's limits, and counted. What a real driver refuses, or would let a kernel go wrong on, is an error here, with
// its reason in cuGetErrorString.
#include <cuda.h>
#include <elf.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <string>

#define PAPER extern "C" __attribute__((visibility("default")))

namespace {

constexpr int kRegisters = 65536, kThreads = 1024, kWarp = 32, kUsualShared = 48 << 10, kShared = 227 << 10;
constexpr int kParameters = 32764;  // bytes of a kernel's, since sm_70
constexpr long long kWide = 2147483647, kHigh = 65535;  // blocks of a grid: x; y and z

struct Kernel {
    std::string name;
    int registers = 0, local = 0, fixed = 0, most_threads = kThreads;  // fixed: bytes of static shared memory
    int dynamic = kUsualShared;                                       // bytes of shared memory that were asked for
    int parameter_bytes = 0;
    std::map<int, int> parameters;  // size by number
    long long launched = 0;

    int threads() const {
        if (registers == 0) return most_threads;
        const int of_a_warp = (registers * kWarp + 255) / 256 * 256;
        return std::min(most_threads, std::min(kThreads, kRegisters / of_a_warp * kWarp));
    }
};

struct Module {
    std::map<std::string, Kernel*> kernels;
};

std::deque<Kernel> kernels;
std::deque<Module> modules;
std::string said;
int context_of_paper;

CUresult refuse(const std::string& reason, CUresult status = CUDA_ERROR_INVALID_VALUE) {
    said = reason.substr(0, 900);
    return status;
}

Kernel* new_kernel(const std::string& name) {
    kernels.emplace_back();
    kernels.back().name = name;
    return &kernels.back();
}

template <typename X>
X read(const unsigned char* from) {
    X x;
    std::memcpy(&x, from, sizeof x);
    return x;
}

// One entry of a .nv.info section: what it is, its value in four bytes or where its payload is.
struct Fact {
    int what;
    unsigned value;
    const unsigned char* payload;
    unsigned size;
};

template <typename Use>
void each_fact(const unsigned char* from, std::size_t size, const Use& use) {
    for (const unsigned char* const end = from + size; from + 4 <= end;) {
        const unsigned value = read<std::uint16_t>(from + 2);
        const bool long_one = from[0] == 4;
        use(Fact{from[1], value, from + 4, long_one ? value : 0});
        from += 4 + (long_one ? value : 0);
    }
}

// The kernels of a cubin with what they need: names of sections and codes of facts as `cuobjdump -elf` shows them.
bool read_cubin(const unsigned char* image, Module& module) {
    const auto header = read<Elf64_Ehdr>(image);
    if (std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0) return false;
    const auto section = [&](int i) { return read<Elf64_Shdr>(image + header.e_shoff + i * header.e_shentsize); };
    const char* const names = reinterpret_cast<const char*>(image + section(header.e_shstrndx).sh_offset);
    Elf64_Shdr symbols{}, facts{};
    const std::string text = ".text.", info = ".nv.info.", shared = ".nv.shared.";
    for (int i = 0; i < header.e_shnum; ++i) {
        const std::string name = names + section(i).sh_name;
        if (name.rfind(text, 0) == 0) module.kernels[name.substr(text.size())] = new_kernel(name.substr(text.size()));
        if (section(i).sh_type == SHT_SYMTAB) symbols = section(i);
        if (name == ".nv.info") facts = section(i);
    }
    const char* const words = reinterpret_cast<const char*>(image + section(symbols.sh_link).sh_offset);
    each_fact(image + facts.sh_offset, facts.sh_size, [&](const Fact& fact) {
        if (fact.size < 8) return;
        const auto number = read<std::uint32_t>(fact.payload);
        const auto symbol = read<Elf64_Sym>(image + symbols.sh_offset + number * sizeof(Elf64_Sym));
        const auto found = module.kernels.find(words + symbol.st_name);
        if (found == module.kernels.end()) return;
        if (fact.what == 0x2f) found->second->registers = read<std::int32_t>(fact.payload + 4);
        if (fact.what == 0x11) found->second->local = read<std::int32_t>(fact.payload + 4);
    });
    for (int i = 0; i < header.e_shnum; ++i) {
        const Elf64_Shdr own = section(i);
        const std::string name = names + own.sh_name;
        for (auto& [kernel, k] : module.kernels) {
            if (name == shared + kernel) k->fixed = static_cast<int>(own.sh_size);
            if (name != info + kernel) continue;
            each_fact(image + own.sh_offset, own.sh_size, [k = k](const Fact& fact) {
                if (fact.what == 0x19) k->parameter_bytes = static_cast<int>(fact.value);
                if (fact.what == 0x17)
                    k->parameters[read<std::uint16_t>(fact.payload + 4)] = read<std::int32_t>(fact.payload + 8) >> 18;
                if (fact.what == 0x45)  // nvcc 13's way of saying it
                    k->parameters[read<std::uint16_t>(fact.payload + 4)] = read<std::int32_t>(fact.payload + 8);
                if (fact.what == 0x05) k->most_threads = read<std::int32_t>(fact.payload);
            });
        }
    }
    return !module.kernels.empty();
}

CUresult launch(Kernel& k, long long x, long long y, long long z, unsigned threads, long long shared, void** given) {
    const std::string which = k.name + ": ";
    const auto number = [](long long n) { return std::to_string(n); };
    if (x < 1 || y < 1 || z < 1 || x > kWide || y > kHigh || z > kHigh)
        return refuse(which + "a grid of " + number(x) + " x " + number(y) + " x " + number(z) + " blocks");
    // Triton's launcher multiplies in int: a product that overflows would be no launch at all, in silence.
    if (x * y > kWide || x * y * z > kWide) return refuse(which + "more than 2^31 - 1 blocks");
    if (threads < 1 || threads % kWarp != 0 || static_cast<int>(threads) > k.threads())
        return refuse(which + number(threads) + " threads, " + number(k.registers) + " registers each: at most " +
                          number(k.threads()),
                      CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES);
    if (shared > k.dynamic || shared + k.fixed > kShared)
        return refuse(which + number(shared) + " bytes of shared memory beside " + number(k.fixed) + ", " +
                      number(k.dynamic) + " were asked for");
    if (k.parameter_bytes > kParameters) return refuse(which + number(k.parameter_bytes) + " bytes of parameters");
    // Every byte that a driver would copy.
    for (const auto& [place, size] : k.parameters) {
        if (given == nullptr || given[place] == nullptr) return refuse(which + "no parameter " + number(place));
        volatile unsigned char copied;
        for (int i = 0; i < size; ++i) copied = static_cast<const unsigned char*>(given[place])[i];
        static_cast<void>(copied);
    }
    ++k.launched;
    return CUDA_SUCCESS;
}

Kernel& of(CUfunction function) { return *reinterpret_cast<Kernel*>(function); }

}  // namespace

PAPER CUresult cuInit(unsigned) { return CUDA_SUCCESS; }
PAPER CUresult cuDriverGetVersion(int* version) { return *version = 13000, CUDA_SUCCESS; }
PAPER CUresult cuDeviceGetCount(int* count) { return *count = 1, CUDA_SUCCESS; }
PAPER CUresult cuDeviceGet(CUdevice* device, int number) { return *device = number, CUDA_SUCCESS; }
PAPER CUresult cuCtxGetDevice(CUdevice* device) { return *device = 0, CUDA_SUCCESS; }
PAPER CUresult cuCtxGetCurrent(CUcontext* context) {
    return *context = reinterpret_cast<CUcontext>(&context_of_paper), CUDA_SUCCESS;
}
PAPER CUresult cuCtxSetCurrent(CUcontext) { return CUDA_SUCCESS; }
PAPER CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice) { return cuCtxGetCurrent(context); }
PAPER CUresult cuCtxGetLimit(std::size_t* value, CUlimit) { return *value = 1 << 20, CUDA_SUCCESS; }
PAPER CUresult cuCtxSetLimit(CUlimit, std::size_t) { return CUDA_SUCCESS; }
PAPER CUresult cuStreamIsCapturing(CUstream, CUstreamCaptureStatus* status) {
    return *status = CU_STREAM_CAPTURE_STATUS_NONE, CUDA_SUCCESS;
}
PAPER CUresult cuGetErrorString(CUresult, const char** text) { return *text = said.c_str(), CUDA_SUCCESS; }

PAPER CUresult cuDeviceGetAttribute(int* value, CUdevice_attribute attribute, CUdevice) {
    static const std::map<int, int> known = {
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 9},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 0},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, kShared},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_MULTIPROCESSOR, 228 << 10},
        {CU_DEVICE_ATTRIBUTE_MAX_REGISTERS_PER_BLOCK, kRegisters},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 132},
        {CU_DEVICE_ATTRIBUTE_WARP_SIZE, kWarp},
        {CU_DEVICE_ATTRIBUTE_CLOCK_RATE, 1980000},
        {CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE, 3201000},
        {CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH, 6144},
    };
    const auto found = known.find(attribute);
    if (found == known.end()) return refuse("no attribute " + std::to_string(attribute) + " of the paper device");
    return *value = found->second, CUDA_SUCCESS;
}

// A pointer of the host stands for one of the device.
PAPER CUresult cuPointerGetAttribute(void* value, CUpointer_attribute attribute, CUdeviceptr pointer) {
    if (attribute != CU_POINTER_ATTRIBUTE_DEVICE_POINTER) return refuse("a pointer's attribute");
    std::memcpy(value, &pointer, sizeof pointer);
    return CUDA_SUCCESS;
}

PAPER CUresult cuModuleLoadData(CUmodule* module, const void* image) {
    modules.emplace_back();
    if (!read_cubin(static_cast<const unsigned char*>(image), modules.back())) return refuse("no cubin");
    return *module = reinterpret_cast<CUmodule>(&modules.back()), CUDA_SUCCESS;
}
PAPER CUresult cuModuleUnload(CUmodule) { return CUDA_SUCCESS; }
PAPER CUresult cuModuleGetFunction(CUfunction* function, CUmodule module, const char* name) {
    const auto& found = reinterpret_cast<const Module*>(module)->kernels;
    const auto at = found.find(name);
    if (at == found.end()) return refuse(std::string("no kernel ") + name, CUDA_ERROR_NOT_FOUND);
    return *function = reinterpret_cast<CUfunction>(at->second), CUDA_SUCCESS;
}
PAPER CUresult cuFuncGetAttribute(int* value, CUfunction_attribute attribute, CUfunction function) {
    const Kernel& k = of(function);
    if (attribute == CU_FUNC_ATTRIBUTE_NUM_REGS) return *value = k.registers, CUDA_SUCCESS;
    if (attribute == CU_FUNC_ATTRIBUTE_LOCAL_SIZE_BYTES) return *value = k.local, CUDA_SUCCESS;
    if (attribute == CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES) return *value = k.fixed, CUDA_SUCCESS;
    if (attribute == CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK) return *value = k.threads(), CUDA_SUCCESS;
    return refuse("no attribute " + std::to_string(attribute) + " of a kernel");
}
PAPER CUresult cuFuncSetAttribute(CUfunction function, CUfunction_attribute attribute, int value) {
    // Shared memory beyond 227 KB is another device's.
    if (attribute != CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES) return CUDA_ERROR_INVALID_VALUE;
    if (value + of(function).fixed > kShared)
        return refuse(of(function).name + ": " + std::to_string(value) + " bytes");
    return of(function).dynamic = value, CUDA_SUCCESS;
}
PAPER CUresult cuFuncSetCacheConfig(CUfunction, CUfunc_cache) { return CUDA_SUCCESS; }
PAPER CUresult cuOccupancyMaxActiveClusters(int*, CUfunction, const CUlaunchConfig*) { return refuse("clusters"); }
PAPER CUresult cuTensorMapEncodeTiled(CUtensorMap*, CUtensorMapDataType, cuuint32_t, void*, const cuuint64_t*,
                                      const cuuint64_t*, const cuuint32_t*, const cuuint32_t*, CUtensorMapInterleave,
                                      CUtensorMapSwizzle, CUtensorMapL2promotion, CUtensorMapFloatOOBfill) {
    return refuse("tensor maps");
}

PAPER CUresult cuLaunchKernelEx(const CUlaunchConfig* config, CUfunction function, void** parameters, void** extra) {
    if (config->blockDimY != 1 || config->blockDimZ != 1 || config->numAttrs != 0 || extra != nullptr)
        return refuse(of(function).name + ": a launch of a kind that this library has none of");
    return launch(of(function), config->gridDimX, config->gridDimY, config->gridDimZ, config->blockDimX,
                  config->sharedMemBytes, parameters);
}

// For tests/paper_device.py: a kernel that was not compiled to the end, its launch, and what was launched.
PAPER void* paper_kernel(const char* name) { return new_kernel(name); }
PAPER int paper_launch(void* kernel, long long x, long long y, long long z, unsigned threads) {
    return launch(*static_cast<Kernel*>(kernel), x, y, z, threads, 0, nullptr);
}
PAPER const char* paper_said() { return said.c_str(); }
PAPER int paper_kernels() { return static_cast<int>(kernels.size()); }
PAPER const char* paper_name(int i) { return kernels[static_cast<std::size_t>(i)].name.c_str(); }
PAPER long long paper_launched(int i) { return kernels[static_cast<std::size_t>(i)].launched; }
PAPER int paper_registers(int i) { return kernels[static_cast<std::size_t>(i)].registers; }
PAPER int paper_parameters(int i) {
    int bytes = 0;
    for (const auto& [place, size] : kernels[static_cast<std::size_t>(i)].parameters) bytes += size;
    return bytes;
}
PAPER void paper_forget() {
    for (Kernel& k : kernels) k.launched = 0;
}
