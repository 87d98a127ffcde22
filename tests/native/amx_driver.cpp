// Products of tiles, and the permission for them, for tests/test_cpu_amx.py.
#include "../../csrc/amx.h"
#include "../../csrc/amx_permission.h"

#if GW_AMX
// 16×16 sums += 16×32 factors a times 32×16 factors b, which are in pairs along k.
extern "C" void multiply_add(float* sums, const uint16_t* a, const uint16_t* b) {
    const gw::AmxScope scope;
    gw::AmxScope::configure();
    gw::amx::load<3>(sums, 64);
    gw::amx::load<5>(a, 64);
    gw::amx::load<7>(b, 64);
    gw::amx::multiply_add<3, 5, 7>();
    gw::amx::store<3>(sums, 64);
}
#endif

#if !defined(GW_AMX_STAND_IN) && defined(__linux__) && defined(__x86_64__)
static int asked;

extern "C" int times_asked() { return asked; }

// Whether a process may use tiles whose processor `has` them and whose kernel `grants` them.
extern "C" bool permitted(bool has, bool grants) {
    asked = 0;
    const auto yes = [] { return true; };
    const auto no = [] { return false; };
    const auto granted = [] { return ++asked, 0L; };
    const auto denied = [] { return ++asked, -1L; };
    return gw::amx::permitted(has ? +yes : +no, grants ? +granted : +denied);
}

extern "C" bool permitted_here() { return gw::amx::permitted(); }
extern "C" bool granted_here() { return gw::amx::request() == 0; }
#endif
