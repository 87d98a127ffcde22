// The functions of the chip that the loops use: asynchronous copies of sixteen bytes, tensor cores, barriers of
// threads and of programs, and the shared memory of the other programs of a cluster (sm_90). The rest of the loops
// is plain C++; tests/clusters has the same functions for a CPU.
#pragma once

#include "types.h"

#define GW_INLINE __forceinline__
#define GW_KERNEL extern "C" __global__ void __launch_bounds__(gw::THREADS, 1)

namespace gw {

// Numbers ----------------------------------------------------------------------------------------

GW_INLINE float wide(float x) { return x; }
GW_INLINE float wide(bfloat16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
GW_INLINE float wide(half x) {
    float found;
    asm("cvt.f32.f16 %0, %1;" : "=f"(found) : "h"(x.bits));
    return found;
}

GW_INLINE void narrow(float x, float& to) { to = x; }
GW_INLINE void narrow(float x, bfloat16& to) { asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }
GW_INLINE void narrow(float x, half& to) { asm("cvt.rn.f16.f32 %0, %1;" : "=h"(to.bits) : "f"(x)); }

// The quotient, within two roundings and without branches; zero if the divisor is infinite.
GW_INLINE float divide(float x, float y) {
    float found;
    asm("div.full.f32 %0, %1, %2;" : "=f"(found) : "f"(x), "f"(y));
    return found;
}

// Indices and shared memory --------------------------------------------------------------------------

GW_INLINE int thread() { return threadIdx.x; }
GW_INLINE int slice() { return blockIdx.x; }
GW_INLINE int tile() { return blockIdx.y; }

GW_INLINE unsigned char* memory() {
    extern __shared__ __align__(16) unsigned char own[];
    return own;
}

// Copies ---------------------------------------------------------------------------------------------

// Begins to copy a piece from global to shared memory, not through this multiprocessor's L1 cache, since other
// programs may have written it. Copies zeros if the piece does not exist.
GW_INLINE void copy(Piece* to, const void* from, bool there) {
    const unsigned at = unsigned(__cvta_generic_to_shared(to));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(at), "l"(from), "r"(there ? 16 : 0) : "memory");
}

// Makes a group of the copies that were begun since the last call.
GW_INLINE void group() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until this thread's copies are complete, except for those of the last `later` groups.
template <int later>
GW_INLINE void copied() {
    asm volatile("cp.async.wait_group %0;" ::"n"(later) : "memory");
}

// Products -------------------------------------------------------------------------------------------

// A warp adds the product of 16 rows of weights and 8 columns, along 16 numbers (8 of float32), to accumulators of
// 16 rows by 8 columns. a: a thread's words of its rows g and g + 8, first those of the first half of the numbers,
// then those of the second. b: those of its column.
GW_INLINE void multiply(bfloat16, float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
GW_INLINE void multiply(half, float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
GW_INLINE void multiply_tf32(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
    asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// The nearest TF32 number, in the bits of a float32.
GW_INLINE unsigned tf32(float x) {
    unsigned found;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(found) : "f"(x));
    return found;
}
GW_INLINE float as_float(unsigned bits) { return __uint_as_float(bits); }

// Waiting --------------------------------------------------------------------------------------------

GW_INLINE void sync() { __syncthreads(); }

// Tells the other programs that what this one has written can be read.
GW_INLINE void arrive(unsigned* counter) {
    __syncthreads();
    if (thread() == 0) asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
}

// Waits until programs have arrived `times` times in all.
GW_INLINE void wait(const unsigned* counter, unsigned times) {
    if (thread() == 0) {
        unsigned found;
        do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(found) : "l"(counter) : "memory");
        while (found < times);
    }
    __syncthreads();
}

// A barrier of all threads of the cluster; after it each sees what the others have written.
GW_INLINE void meet() {
    asm volatile("barrier.cluster.arrive.release.aligned;\n\tbarrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address, in another program of the cluster, that corresponds to an address in this one's shared memory.
GW_INLINE const float* of_peer(const float* mine, int peer) {
    const float* found;
    asm("mapa.u64 %0, %1, %2;" : "=l"(found) : "l"(mine), "r"(peer));
    return found;
}

}  // namespace gw
