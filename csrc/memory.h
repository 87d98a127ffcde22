// Working memory: a stack for each thread that is kept between calls, and the division of one block into
// arrays.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace gw {

inline constexpr size_t alignment = 64;

inline size_t rounded(size_t bytes, size_t to = alignment) { return (bytes + to - 1) / to * to; }

// A stack of memory. A Frame's end releases everything that was taken within it.
class Arena {
public:
    static Arena& mine() {
        thread_local Arena arena;
        return arena;
    }

    ~Arena() {
        for (const Chunk& chunk : chunks_) std::free(chunk.base);
    }

    template <class T>
    T* take(int64_t count) {
        const size_t bytes = rounded(size_t(count) * sizeof(T)) + alignment;  // vector loads may read past the end
        if (chunks_.empty() || chunks_.back().size - chunks_.back().used < bytes) add(bytes);
        Chunk& chunk = chunks_.back();
        T* from = reinterpret_cast<T*>(chunk.base + chunk.used);
        chunk.used += bytes;
        return from;
    }

    class Frame {
    public:
        explicit Frame(Arena& arena) : arena_(arena), depth_(arena.frames_++) {}
        ~Frame() {
            if (--arena_.frames_ == 0) arena_.clear();
        }
        Frame(const Frame&) = delete;

    private:
        Arena& arena_;
        int depth_;
    };

private:
    struct Chunk {
        char* base;
        size_t size, used;
    };

    void add(size_t bytes) {
        const size_t huge = size_t(2) << 20;
        const size_t size = rounded(bytes, bytes < huge ? size_t(64) << 10 : huge);
        void* base = std::aligned_alloc(size < huge ? 4096 : huge, size);
        if (base == nullptr) throw std::bad_alloc();
#if defined(__linux__)
        if (size >= huge) madvise(base, size, MADV_HUGEPAGE);
#endif
        chunks_.push_back({static_cast<char*>(base), size, 0});
    }

    // Memory that was taken in pieces is one piece the next time; very large memory is released.
    void clear() {
        size_t total = 0;
        for (Chunk& chunk : chunks_) {
            total += chunk.size;
            chunk.used = 0;
        }
        if (chunks_.size() <= 1 && total <= most_kept) return;
        for (const Chunk& chunk : chunks_) std::free(chunk.base);
        chunks_.clear();
        if (total <= most_kept) add(total);
    }

    static constexpr size_t most_kept = size_t(256) << 20;
    std::vector<Chunk> chunks_;
    int frames_ = 0;
};

// Memory of a thread for the rows of one product, which are laid out side by side. All products share it: none runs within
// another one of the same thread.
inline constexpr size_t scratch_bytes = 96 * 256 * sizeof(double);

inline char* scratch_of_thread() {
    struct Scratch {
        alignas(alignment) char bytes[scratch_bytes];
    };
    thread_local Scratch mine;
    return mine.bytes;
}

template <class T, size_t count>
T* scratch() {
    static_assert(count * sizeof(T) <= scratch_bytes);
    return reinterpret_cast<T*>(scratch_of_thread());
}

// Places arrays one after the other in a block. With a null block it only counts the bytes.
class Carver {
public:
    explicit Carver(void* block) : base_(static_cast<char*>(block)) {}

    template <class T>
    T* take(int64_t count) {
        T* from = base_ ? reinterpret_cast<T*>(base_ + used_) : nullptr;
        used_ += rounded(size_t(count) * sizeof(T)) + alignment;
        return from;
    }

    size_t used() const { return used_; }

private:
    char* base_;
    size_t used_ = 0;
};

}  // namespace gw
