// A double of the CUDA driver and of cuBLAS: two devices of 48 MiB made of ordinary memory, for machines that have none.
//
// It keeps to the published interface, so that orders, sizes, units and faults of our side can be tested; it says nothing about real
// devices, and `kernels.ptx` is not run by it: the three kernels are written again here. DOUBLE_FAULT breaks one thing.

#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define EXPORT __attribute__((visibility("default")))
enum { DEVICES = 2, MEMORY = 48 << 20, OUT_OF_MEMORY = 2, INVALID = 1, UNAVAILABLE = 46, NO_DEVICE = 101, ECC = 214, NOT_FOUND = 500 };

typedef struct { int ordinal; size_t used; int waits, products, inverts, copies, initialised; } device_t;
typedef struct { uint64_t address; size_t bytes; device_t *owner; } allocation_t;

static device_t devices[DEVICES] = {{.ordinal = 0}, {.ordinal = 1}};
static allocation_t allocations[4096];
static __thread device_t *current;
static volatile int lock;

static int fault(const char *name) {
    const char *wanted = getenv("DOUBLE_FAULT");
    return wanted && !strcmp(wanted, name);
}
static void enter(void) { while (__sync_lock_test_and_set(&lock, 1)) {} }
static void leave(void) { __sync_lock_release(&lock); }

EXPORT int cuInit(unsigned flags) { return flags ? INVALID : 0; }
EXPORT int cuGetErrorName(int status, const char **text) {
    *text = status == ECC ? "CUDA_ERROR_ECC_UNCORRECTABLE" : status == UNAVAILABLE ? "CUDA_ERROR_DEVICE_UNAVAILABLE" : "CUDA_ERROR";
    return 0;
}
EXPORT int cuGetErrorString(int status, const char **text) { *text = status == ECC ? "uncorrectable ECC error encountered" : "said by the double"; return 0; }
EXPORT int cuDeviceGetCount(int *count) { *count = DEVICES; return 0; }
// The fastest comes first, as with the real one: not the order of addresses.
EXPORT int cuDeviceGet(int *device, int ordinal) {
    if (ordinal < 0 || ordinal >= DEVICES) return NO_DEVICE;
    *device = DEVICES - 1 - ordinal;
    return 0;
}
EXPORT int cuDeviceGetPCIBusId(char *text, int length, int device) { snprintf(text, length, "00000000:%02X:00.0", 0x1a + device); return 0; }
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
    (void)device;
    *value = attribute == 16 ? 4 : attribute == 75 ? (fault("old") ? 7 : 9) : 0;
    return 0;
}
EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) {
    if (fault("busy")) return UNAVAILABLE;
    *context = &devices[device];
    return 0;
}
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return 0; }
EXPORT int cuCtxSetCurrent(void *context) { current = context; return 0; }
EXPORT int cuCtxSynchronize(void) { return 0; }
EXPORT int cuDeviceCanAccessPeer(int *can, int from, int to) { *can = from != to; return 0; }
EXPORT int cuCtxEnablePeerAccess(void *peer, unsigned flags) { return peer == current || flags ? INVALID : 0; }
EXPORT int cuMemGetInfo_v2(size_t *available, size_t *total) { *available = MEMORY - current->used; *total = MEMORY; return 0; }
EXPORT int cuMemAlloc_v2(uint64_t *address, size_t bytes) {
    if (!bytes) return INVALID;
    enter();
    int status = OUT_OF_MEMORY;
    for (int i = 0; i < 4096 && current->used + bytes <= MEMORY; i++)
        if (!allocations[i].address) {
            allocations[i] = (allocation_t){(uint64_t)(uintptr_t)malloc(bytes), bytes, current};
            memset((void *)(uintptr_t)allocations[i].address, 0xa5, bytes);
            current->used += bytes;
            *address = allocations[i].address;
            status = 0;
            break;
        }
    leave();
    return status;
}
// The allocation in which so many bytes lie, or the process ends: a copy beyond its memory must not go unseen.
static allocation_t *of(uint64_t address, size_t bytes) {
    for (int i = 0; i < 4096; i++) {
        allocation_t *a = &allocations[i];
        if (a->address && address >= a->address && address + bytes <= a->address + a->bytes) return a;
    }
    fprintf(stderr, "error: %zu bytes at an address that was not allocated\n", bytes);
    abort();
}
EXPORT int cuMemFree_v2(uint64_t address) {
    enter();
    allocation_t *a = of(address, 1);
    if (a->address != address) abort();
    a->owner->used -= a->bytes;
    a->address = 0;
    free((void *)(uintptr_t)address);
    leave();
    return 0;
}
EXPORT int cuMemHostAlloc(void **pointer, size_t bytes, unsigned flags) { *pointer = malloc(bytes); return flags ? INVALID : 0; }
EXPORT int cuMemFreeHost(void *pointer) { free(pointer); return 0; }
EXPORT int cuMemsetD8_v2(uint64_t to, uint8_t value, size_t bytes) { of(to, bytes); memset((void *)(uintptr_t)to, value, bytes); return 0; }
EXPORT int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
    of(to, bytes);
    memcpy((void *)(uintptr_t)to, from, bytes);
    return stream ? INVALID : 0;
}
EXPORT int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
    of(from, bytes);
    memcpy(to, (void *)(uintptr_t)from, bytes);
    if (fault("link") && bytes > 1 << 20) ((uint8_t *)to)[bytes / 3] ^= 0x10;
    return stream ? INVALID : 0;
}
EXPORT int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void *stream) {
    of(from, bytes); of(to, bytes);
    memcpy((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
    return stream ? INVALID : 0;
}
EXPORT int cuMemcpyPeerAsync(uint64_t to, void *receiver, uint64_t from, void *sender, size_t bytes, void *stream) {
    if (of(to, bytes)->owner != receiver || of(from, bytes)->owner != sender) return INVALID;
    memcpy((void *)(uintptr_t)to, (void *)(uintptr_t)from, bytes);
    if (fault("peer") && receiver == &devices[1] && bytes > 1 << 20) ((uint8_t *)(uintptr_t)to)[bytes / 2] ^= 1;
    return stream ? INVALID : 0;
}
EXPORT int cuEventCreate(void **event, unsigned flags) { (void)flags; *event = calloc(1, sizeof(struct timespec)); return 0; }
EXPORT int cuEventDestroy_v2(void *event) { free(event); return 0; }
EXPORT int cuEventRecord(void *event, void *stream) { clock_gettime(CLOCK_MONOTONIC, event); return stream ? INVALID : 0; }
EXPORT int cuEventSynchronize(void *event) {
    (void)event;
    return fault("ecc") && current->ordinal == 1 && ++current->waits > 3 ? ECC : 0;
}
EXPORT int cuEventElapsedTime(float *milliseconds, void *start, void *end) {
    struct timespec *a = start, *b = end;
    *milliseconds = (b->tv_sec - a->tv_sec) * 1e3f + (b->tv_nsec - a->tv_nsec) / 1e6f;
    return 0;
}
EXPORT int cuModuleLoadData(void **module, const void *text) {
    if (!strstr(text, ".target sm_50")) return INVALID;
    *module = (void *)text;
    return 0;
}
EXPORT int cuModuleUnload(void *module) { (void)module; return 0; }
// A kernel has to be in the text with as many parameters as it is given.
EXPORT int cuModuleGetFunction(void **function, void *module, const char *name) {
    char entry[64];
    snprintf(entry, sizeof entry, ".entry %s(", name);
    const char *found = strstr(module, entry);
    *function = (void *)(found ? found + strlen(".entry ") : NULL);
    return found ? 0 : NOT_FOUND;
}

static uint64_t mix(uint64_t x) {
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    return x ^ x >> 31;
}
static uint64_t pattern(uint64_t word, uint64_t round) {
    return round % 2 ? 1ull << (word + round) % 64 : (word ^ round) * 0x9e3779b97f4a7c15u;
}
EXPORT int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                          unsigned shared, void *stream, void **parameters, void **extra) {
    if (!gx || gy != 1 || gz != 1 || !bx || by != 1 || bz != 1 || shared || stream || extra) return INVALID;
    uint64_t *words = *(uint64_t **)parameters[0], count = *(uint64_t *)parameters[1];
    if (!strncmp(function, "digest(", 7)) {
        uint64_t sum = 0, *to = *(uint64_t **)parameters[2];
        of((uintptr_t)words, count * 4); of((uintptr_t)to, 8);
        for (uint64_t i = 0; i < count; i++) sum += mix(i << 32 | ((uint32_t *)words)[i]);
        *to += sum;
        return 0;
    }
    uint64_t first = *(uint64_t *)parameters[2], round = *(uint64_t *)parameters[3];
    of((uintptr_t)words, count * 8);
    if (!strncmp(function, "pattern_write(", 14)) {
        for (uint64_t i = 0; i < count; i++) words[i] = pattern(first + i, round);
        return 0;
    }
    if (strncmp(function, "pattern_invert(", 15)) return NOT_FOUND;
    uint64_t flipped = *(uint64_t *)parameters[4], *faults = *(uint64_t **)parameters[5];
    if (fault("memory") && current->ordinal == 1 && ++current->inverts == 3) words[77] ^= 1 << 9;
    for (uint64_t i = 0; i < count; i++) {
        uint64_t expected = pattern(first + i, round) ^ flipped;
        if (words[i] != expected) {
            uint64_t slot = faults[0]++;
            if (slot < 8) memcpy(faults + 1 + 3 * slot, (uint64_t[]){first + i, expected, words[i]}, 24);
        }
        words[i] = ~expected;
    }
    return 0;
}

EXPORT int cublasCreate_v2(void **handle) { *handle = current; return current ? 0 : 1; }
EXPORT int cublasDestroy_v2(void *handle) { return handle == current ? 0 : 1; }

static float decode(const void *from, int type, size_t i) {
    uint32_t bits;
    if (type == 0) return ((const float *)from)[i];
    uint16_t narrow = ((const uint16_t *)from)[i];
    if (type == 14) bits = (uint32_t)narrow << 16;
    else bits = !(narrow & 0x7fff) ? 0 : (narrow & 0x8000u) << 16 | ((narrow >> 10 & 31) + 112u) << 23 | (narrow & 0x3ffu) << 13;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}
EXPORT int cublasGemmEx(void *handle, int ta, int tb, int m, int n, int k, const void *alpha, const void *a, int atype, int lda,
                        const void *b, int btype, int ldb, const void *beta, void *c, int ctype, int ldc, int compute, int algorithm) {
    device_t *device = handle;
    if (ta || tb || lda != m || ldb != k || ldc != m || ctype || atype != btype || algorithm != -1 || device != current) return 7;
    if (*(float *)alpha != 1 || *(float *)beta != 0 || (compute != 68 && compute != 77)) return 7;
    size_t element = atype ? 2 : 4;
    of((uintptr_t)a, element * m * k); of((uintptr_t)b, element * k * n); of((uintptr_t)c, 4ul * m * n);
    float *left = malloc(4ul * m * k), *result = c;
    for (size_t i = 0; i < (size_t)m * k; i++) left[i] = decode(a, atype, i);
    memset(result, 0, 4ul * m * n);
    for (int column = 0; column < n; column++)
        for (int inner = 0; inner < k; inner++) {
            float factor = decode(b, btype, (size_t)column * k + inner), *to = result + (size_t)column * m;
            for (int row = 0; row < m; row++) to[row] += left[(size_t)inner * m + row] * factor;
        }
    free(left);
    device->products++;
    if (fault("product") && device->ordinal == 0 && device->products == 1) result[5 * m + 7] += 1;
    if (fault("products") && device->ordinal == 1 && device->products == 2) result[9] += 2;
    return 0;
}
