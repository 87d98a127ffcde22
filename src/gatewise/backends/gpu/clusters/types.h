// What is stored and copied, for a chip's functions and for those that stand for them in the tests.
#pragma once

namespace gw {

// Sixteen bytes: what a thread reads or copies at once.
struct alignas(16) Piece {
    unsigned word[4];
};

struct half {
    unsigned short bits;
};
struct bfloat16 {
    unsigned short bits;
};

}  // namespace gw
