// Memory for the saved activations of many steps.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "tensor.h"

namespace gw {

namespace nb = nanobind;

// A block lives from a forward call to its backward call. Freed blocks are kept for the next call, because mapping new
// pages at each training step takes as long as some of the products.
class KeptBlock {
public:
    explicit KeptBlock(size_t bytes) : bytes_(bytes) {
        {
            const std::lock_guard hold(mutex());
            auto& free = free_blocks();
            const auto found = free.lower_bound(bytes);
            if (found != free.end() && found->first <= 2 * bytes) {
                bytes_ = found->first;
                base_ = found->second;
                kept() -= bytes_;
                free.erase(found);
                return;
            }
        }
        constexpr size_t huge = size_t(2) << 20;
        bytes_ = bytes < huge ? (bytes + 4095) / 4096 * 4096 : (bytes + huge - 1) / huge * huge;
        base_ = std::aligned_alloc(bytes < huge ? 4096 : huge, bytes_);
        if (base_ == nullptr) throw std::bad_alloc();
#if defined(__linux__)
        if (bytes >= huge) madvise(base_, bytes_, MADV_HUGEPAGE);
#endif
    }

    ~KeptBlock() {
        const std::lock_guard hold(mutex());
        if (kept() + bytes_ > most_kept) {
            std::free(base_);
        } else {
            kept() += bytes_;
            free_blocks().emplace(bytes_, base_);
        }
    }

    KeptBlock(const KeptBlock&) = delete;

    void* base() const { return base_; }

private:
    static constexpr size_t most_kept = size_t(512) << 20;
    // Never destroyed: blocks may be released while the interpreter exits.
    static std::mutex& mutex() {
        static auto* one = new std::mutex;
        return *one;
    }
    static std::multimap<size_t, void*>& free_blocks() {
        static auto* all = new std::multimap<size_t, void*>;
        return *all;
    }
    static size_t& kept() {
        static size_t bytes = 0;
        return bytes;
    }

    size_t bytes_;
    void* base_ = nullptr;
};

// From this number of saved activations on, kept memory is faster than new memory, whose pages the operating system must
// map first.
inline constexpr int64_t worth_keeping = 1 << 18;

// An uninitialised tensor for saved activations on the device of `like`. dtype is torch's double if `twice`, else single.
inline nb::object activations_tensor(nb::handle like, int64_t numbers, nb::handle dtype, bool twice) {
    if (numbers < worth_keeping) return tensor::new_empty(like, numbers, dtype);
    auto block = std::make_unique<KeptBlock>(size_t(numbers) * (twice ? sizeof(double) : sizeof(float)));
    void* base = block->base();
    nb::capsule owner(block.release(), [](void* p) noexcept { delete static_cast<KeptBlock*>(p); });
    const size_t shape[] = {size_t(numbers)};
    if (twice) return nb::cast(nb::ndarray<nb::pytorch, double>(base, 1, shape, owner));
    return nb::cast(nb::ndarray<nb::pytorch, float>(base, 1, shape, owner));
}

}  // namespace gw
