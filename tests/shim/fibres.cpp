// The scheduler of tests/shim/cuda_shim.h: one block at a time, its threads as fibres on one thread of the host.

#include "cuda_shim.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <numeric>
#include <random>
#include <stdexcept>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#if defined(__x86_64__)
// Saves what a call preserves, leaves the stack pointer in *from and continues on the stack `to`. ucontext would do, at
// two system calls a switch; a test makes millions of switches.
extern "C" void fastdarts_shim_switch(void** from, void* to);
asm(R"(
.text
.globl fastdarts_shim_switch
.hidden fastdarts_shim_switch
.type fastdarts_shim_switch, @function
fastdarts_shim_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
.size fastdarts_shim_switch, .-fastdarts_shim_switch
)");
#else
#include <ucontext.h>
#endif

namespace fastdarts {
namespace shim {
namespace {

constexpr std::size_t kStack = 256 * 1024, kGuard = 64 * 1024, kSlot = 64, kFence = 64, kMostShared = 232448;
constexpr std::size_t kMostBlocks = 2147483647, kMostParameters = 32764;
constexpr unsigned kWarp = 32;
constexpr unsigned char kFenced = 0xA5;

enum class State { ready, at_block, at_warp, ended };

struct Copy {
    void* to;
    const void* from;
    std::size_t bytes, valid;
};

struct Fibre {
    unsigned char* stack = nullptr;
    void* fake = nullptr;  // AddressSanitizer's
#if defined(__x86_64__)
    void* top = nullptr;
#else
    ucontext_t context;
#endif
    State state = State::ended;
    Place place{};
    unsigned collectives = 0, votes = 0;
    std::deque<std::vector<Copy>> groups;
    std::vector<Copy> open;
};

struct Warp {
    unsigned arrived = 0;
    alignas(16) unsigned char slots[2][kWarp * kSlot];  // by turns: a lane may be one collective ahead
};

struct Block {
    std::vector<Fibre> fibres;
    std::vector<Warp> warps;
    unsigned threads = 0, arrived = 0, current = 0;
    bool voted[2] = {};  // by turns: a thread may be one vote ahead
    unsigned char* shared = nullptr;
    const std::function<void()>* body = nullptr;
    std::string failure;
#if defined(__x86_64__)
    void* host = nullptr;
#else
    ucontext_t host;
#endif
    void* host_fake = nullptr;
    const void* host_stack = nullptr;
    std::size_t host_size = 0;
};

Block block;
Order order = Order::ascending;
bool pretending = false;
std::vector<Launched> launches;
std::mutex one_at_a_time;

void before_switch([[maybe_unused]] void** fake, [[maybe_unused]] const void* stack,
                   [[maybe_unused]] std::size_t size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake, stack, size);
#endif
}

void after_switch([[maybe_unused]] void* fake, [[maybe_unused]] const void** stack,
                  [[maybe_unused]] std::size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake, stack, size);
#endif
}

void to_host() {
    Fibre& fibre = block.fibres[block.current];
    before_switch(fibre.state == State::ended ? nullptr : &fibre.fake, block.host_stack, block.host_size);
#if defined(__x86_64__)
    fastdarts_shim_switch(&fibre.top, block.host);
#else
    swapcontext(&fibre.context, &block.host);
#endif
    after_switch(fibre.fake, nullptr, nullptr);
}

void to_fibre(unsigned thread) {
    Fibre& fibre = block.fibres[thread];
    block.current = thread;
    threadIdx = dim3(thread, 0, 0);
    before_switch(&block.host_fake, fibre.stack, kStack);
#if defined(__x86_64__)
    fastdarts_shim_switch(&block.host, fibre.top);
#else
    swapcontext(&block.host, &fibre.context);
#endif
    after_switch(block.host_fake, nullptr, nullptr);
}

[[noreturn]] void fail(const std::string& what) {
    block.failure = what;
    block.fibres[block.current].state = State::ended;
    to_host();
    std::abort();  // an ended fibre does not come back
}

void run_fibre() {
    after_switch(nullptr, &block.host_stack, &block.host_size);
    (*block.body)();
    Fibre& fibre = block.fibres[block.current];
    if (!fibre.open.empty() || !fibre.groups.empty()) block.failure = "a thread ended before its asynchronous copies";
    fibre.state = State::ended;
    to_host();
    std::abort();
}

void prepare(Fibre& fibre) {
    if (fibre.stack == nullptr) {
        void* memory = mmap(nullptr, kGuard + kStack, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) throw std::bad_alloc();
        mprotect(memory, kGuard, PROT_NONE);
        fibre.stack = static_cast<unsigned char*>(memory) + kGuard;
    }
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fibre.stack, kStack);  // what a fibre left that never ended
#endif
#if defined(__x86_64__)
    void** top = reinterpret_cast<void**>(fibre.stack + kStack);
    *--top = nullptr;  // a function finds its stack 8 bytes off a multiple of 16
    *--top = reinterpret_cast<void*>(&run_fibre);
    for (int saved = 0; saved < 6; ++saved) *--top = nullptr;
    fibre.top = top;
#else
    getcontext(&fibre.context);
    fibre.context.uc_stack.ss_sp = fibre.stack;
    fibre.context.uc_stack.ss_size = kStack;
    fibre.context.uc_link = nullptr;
    makecontext(&fibre.context, &run_fibre, 0);
#endif
    fibre.fake = nullptr;
    fibre.state = State::ready;
    fibre.collectives = fibre.votes = 0;
    fibre.open.clear();
    fibre.groups.clear();
}

std::string describe(Place place) { return std::string(place.file) + ":" + std::to_string(place.line); }

void land(const std::vector<Copy>& group) {
    for (const Copy& copy : group) {
        std::memcpy(copy.to, copy.from, copy.valid);
        std::memset(static_cast<unsigned char*>(copy.to) + copy.valid, 0, copy.bytes - copy.valid);
    }
}

std::vector<unsigned> arranged(unsigned count) {
    std::vector<unsigned> numbers(count);
    std::iota(numbers.begin(), numbers.end(), 0u);
    if (order == Order::descending) std::reverse(numbers.begin(), numbers.end());
    if (order == Order::shuffled) std::shuffle(numbers.begin(), numbers.end(), std::mt19937(count));
    return numbers;
}

void run_block(const std::vector<unsigned>& threads) {
    for (unsigned i = 0; i < block.threads; ++i) prepare(block.fibres[i]);
    for (Warp& warp : block.warps) warp.arrived = 0;
    block.arrived = 0;
    block.voted[0] = block.voted[1] = false;
    for (bool moved = true; moved;) {
        moved = false;
        for (unsigned thread : threads) {
            if (block.fibres[thread].state != State::ready) continue;
            to_fibre(thread);
            if (!block.failure.empty()) return;
            moved = true;
        }
    }
    for (unsigned thread = 0; thread < block.threads; ++thread) {
        const Fibre& fibre = block.fibres[thread];
        if (fibre.state == State::ended) continue;
        const char* what = fibre.state == State::at_block ? "the block's barrier" : "its warp's collective";
        block.failure =
            "thread " + std::to_string(thread) + " waits for ever at " + what + ", " + describe(fibre.place);
        return;
    }
}

}  // namespace

void launch(const char* kernel, dim3 grid, dim3 threads, std::size_t shared_bytes, std::size_t parameter_bytes,
            const std::function<void()>& body) {
    const std::lock_guard<std::mutex> lock(one_at_a_time);
    const std::string name = kernel;
    const unsigned count = threads.x, blocks = grid.x;
    if (count == 0 || count > 1024 || count % kWarp != 0 || threads.y != 1 || threads.z != 1)
        throw std::runtime_error(name + ": a block of " + std::to_string(count) + " threads; whole warps expected");
    if (blocks == 0 || blocks > kMostBlocks || grid.y != 1 || grid.z != 1)
        throw std::runtime_error(name + ": no grid of blocks in one row");
    if (parameter_bytes > kMostParameters) throw std::runtime_error(name + ": too many bytes of parameters");
    if (shared_bytes > kMostShared) throw std::runtime_error(name + ": too much shared memory");
    launches.push_back({name, blocks, count, shared_bytes, parameter_bytes});
    if (pretending) return;
    if (block.fibres.size() < count) block.fibres.resize(count);
    block.warps.resize(count / kWarp);
    block.threads = count;
    block.body = &body;
    block.failure.clear();
    blockDim = threads;
    gridDim = grid;
#if defined(__SANITIZE_ADDRESS__)
    constexpr std::size_t fence = 0;
#else
    constexpr std::size_t fence = kFence;
#endif
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, std::max<std::size_t>(shared_bytes + fence, 1)) != 0) throw std::bad_alloc();
    block.shared = static_cast<unsigned char*>(memory);
    unsigned char* end = block.shared + shared_bytes;
    std::memset(end, kFenced, fence);
    const std::vector<unsigned> turns = arranged(count);
    for (unsigned index : arranged(blocks)) {
        blockIdx = dim3(index, 0, 0);
        std::memset(block.shared, 0xFF, shared_bytes);
        run_block(turns);
        if (block.failure.empty() && std::any_of(end, end + fence, [](unsigned char byte) { return byte != kFenced; }))
            block.failure = "a write past the end of shared memory";
        if (!block.failure.empty()) break;
    }
    std::free(memory);
    if (!block.failure.empty())
        throw std::runtime_error(name + ", block " + std::to_string(blockIdx.x) + ": " + block.failure);
}

void choose_order(Order chosen) { order = chosen; }

void pretend(bool only) { pretending = only; }

std::vector<Launched> take_launches() {
    std::vector<Launched> taken;
    std::swap(taken, launches);
    return taken;
}

unsigned char* shared() { return block.shared; }

void meet_block(Place place) {
    Fibre& fibre = block.fibres[block.current];
    fibre.place = place;
    if (block.arrived > 0) {
        for (unsigned i = 0; i < block.threads; ++i) {
            const Fibre& other = block.fibres[i];
            if (other.state == State::at_block && (other.place.line != place.line || other.place.file != place.file))
                fail("threads meet at different barriers, " + describe(other.place) + " and " + describe(place));
            if (other.state == State::at_block) break;  // the others have been compared with it
        }
    }
    if (++block.arrived < block.threads) {
        fibre.state = State::at_block;
        to_host();
        return;
    }
    block.arrived = 0;
    for (unsigned i = 0; i < block.threads; ++i) block.fibres[i].state = State::ready;
    // This one's turn comes with the others': who arrives last must not always run first.
    to_host();
}

bool any_of_block(bool holds, Place place) {
    const unsigned turn = block.fibres[block.current].votes++ % 2;
    if (holds) block.voted[turn] = true;
    if (block.arrived + 1 == block.threads) block.voted[1 - turn] = false;  // all have read what it was
    meet_block(place);
    return block.voted[turn];
}

const unsigned char* meet_warp(const void* mine, std::size_t bytes, Place place) {
    const unsigned thread = block.current, first = thread / kWarp * kWarp;
    Fibre& fibre = block.fibres[thread];
    Warp& warp = block.warps[thread / kWarp];
    unsigned char* slots = warp.slots[fibre.collectives++ % 2];
    std::memcpy(slots + (thread - first) * kSlot, mine, bytes);
    fibre.place = place;
    for (unsigned i = first; i < first + kWarp; ++i) {
        const Fibre& other = block.fibres[i];
        if (other.state == State::at_warp && (other.place.line != place.line || other.place.file != place.file))
            fail("lanes meet in different collectives, " + describe(other.place) + " and " + describe(place));
        if (other.state == State::at_warp) break;
    }
    if (++warp.arrived < kWarp) {
        fibre.state = State::at_warp;
        to_host();
        return slots;
    }
    warp.arrived = 0;
    for (unsigned i = first; i < first + kWarp; ++i) block.fibres[i].state = State::ready;
    return slots;
}

void copy_async(void* to, const void* from, std::size_t bytes, std::size_t valid) {
    std::memset(to, 0xFF, bytes);
    block.fibres[block.current].open.push_back({to, from, bytes, valid});
}

void commit_copies() {
    Fibre& fibre = block.fibres[block.current];
    fibre.groups.push_back(std::move(fibre.open));
    fibre.open.clear();
}

void wait_copies(std::size_t pending) {
    Fibre& fibre = block.fibres[block.current];
    while (fibre.groups.size() > pending) {
        land(fibre.groups.front());
        fibre.groups.pop_front();
    }
}

}  // namespace shim
}  // namespace fastdarts
