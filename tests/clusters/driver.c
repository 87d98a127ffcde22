// The part of NVIDIA's driver that cuda-core calls, with one H100 that is not there: it writes down what a
// kernel is launched with. Built as libcuda.so.1.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>

typedef struct {
    unsigned grid[3], block[3], shared;
    void* stream;
    const void* attributes;
    unsigned number;
} Config;
typedef struct {
    int id;
    char pad[4];
    union {
        char bytes[64];
        unsigned numbers[3];
    } value;
} Attribute;

static void* const context = (void*)0x1000;

static int not_here(void) { return 801; }

static void say(const char* what, const Config* config) {
    printf("%s grid %u %u %u block %u shared %u stream %p", what, config->grid[0], config->grid[1], config->grid[2],
           config->block[0], config->shared, config->stream);
    const Attribute* attributes = config->attributes;
    for (unsigned k = 0; k < config->number; ++k)
        printf(" attribute %d: %u", attributes[k].id, attributes[k].value.numbers[0]);
}

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* version) { return *version = 13000, 0; }
int cuDeviceGetCount(int* number) { return *number = 1, 0; }
int cuDeviceGet(int* device, int index) { return *device = index, 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
    // multiprocessors; compute capability; cooperative launches; shared memory of a block
    *value = attribute == 16 ? 132 : attribute == 75 ? 9 : attribute == 95 ? 1 : attribute == 97 ? 232448 : 0;
    return 0;
}
int cuCtxGetCurrent(void** found) { return *found = context, 0; }
int cuCtxSetCurrent(void* given) { return 0; }
int cuCtxGetDevice(int* device) { return *device = 0, 0; }
int cuDevicePrimaryCtxRetain(void** found, int device) { return *found = context, 0; }
int cuDevicePrimaryCtxRelease_v2(int device) { return 0; }
int cuStreamGetCtx(void* stream, void** found) { return *found = context, 0; }
int cuLibraryLoadData(void** library, const void* code, void* a, void* b, unsigned c, void* d, void* e, unsigned f) {
    return *library = (void*)0x2000, 0;
}
int cuLibraryGetKernel(void** kernel, void* library, const char* name) { return *kernel = (void*)0x3000, 0; }
int cuLibraryUnload(void* library) { return 0; }
int cuKernelGetFunction(void** function, void* kernel) { return *function = (void*)0x4000, 0; }
int cuKernelGetAttribute(int* value, int attribute, void* kernel, int device) { return *value = 0, 0; }
int cuKernelSetAttribute(int attribute, int value, void* kernel, int device) {
    return printf("kernel attribute %d: %d\n", attribute, value), 0;
}
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* number, void* function, int block, size_t shared) {
    return *number = 1, 0;
}
int cuOccupancyMaxActiveClusters(int* number, void* function, const Config* config) {
    say("clusters", config), printf("\n");
    return *number = 32, 0;
}
int cuLaunchKernelEx(const Config* config, void* function, void** words, void** extra) {
    say("launch", config);
    return printf(" words %lld %lld %lld\n", *(long long*)words[0], *(long long*)words[1], *(long long*)words[2]), 0;
}
int cuGetErrorName(int error, const char** text) { return *text = "error", 0; }
int cuGetErrorString(int error, const char** text) { return *text = "an error", 0; }

int cuGetProcAddress_v2(const char* name, void** found, int version, uint64_t flags, int* status) {
    static void* self;
    if (!self) self = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    char newer[200];
    snprintf(newer, sizeof newer, "%s_v2", name);
    *found = dlsym(self, name);
    if (!*found) *found = dlsym(self, newer);
    if (!*found) *found = (void*)not_here;
    if (status) *status = 0;
    return 0;
}
int cuGetProcAddress(const char* name, void** found, int version, uint64_t flags) {
    return cuGetProcAddress_v2(name, found, version, flags, 0);
}
