#include "tests/engine/alloc_sites.h"

#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <zstd.h>
#include <zstd_errors.h>

#include "base/alloc.h"

#define OWN_FRAMES 4 /* at most: of the unwinder, of a sanitizer before it, note(), and the wrapper */
#define SLOTS      (VV_ALLOC_SITES_MAX * 2)

typedef struct site_table {
    _Atomic uint32_t count;
    _Atomic uint32_t order[VV_ALLOC_SITES_MAX]; /* slot + 1; 0: not written yet */
    vv_alloc_site slots[SLOTS];
} site_table;

static site_table *table;
static _Atomic uint64_t failing_id; /* 0: none */
static _Atomic uint64_t failing_in;
static _Atomic bool failing_on, all_fail, any_failed;

void vv_alloc_sites_begin(void) {
    void *frames[4];
    (void)backtrace(frames, 4); /* loads what it needs */
    table = mmap(NULL, sizeof *table, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (table == MAP_FAILED)
        abort();
}

const vv_alloc_site *vv_alloc_sites_get(uint32_t index) {
    if (index >= atomic_load(&table->count))
        return NULL;
    uint32_t slot;
    do
        slot = atomic_load(&table->order[index]);
    while (slot == 0); /* another thread is about to write it */
    return &table->slots[slot - 1];
}

void vv_alloc_sites_fail(uint64_t id, uint64_t n, vv_alloc_failure how) {
    atomic_store(&any_failed, false);
    atomic_store(&all_fail, false);
    atomic_store(&failing_in, n);
    atomic_store(&failing_on, how == VV_ALLOC_FAILS_FROM_ON);
    atomic_store(&failing_id, id);
}

void vv_alloc_sites_mend(void) {
    atomic_store(&failing_id, 0);
    atomic_store(&all_fail, false);
}

bool vv_alloc_sites_failed(void) {
    return atomic_load(&any_failed);
}

static vv_alloc_site *find_or_add(uint64_t id, void *const *frames) {
    for (uint64_t at = id % SLOTS;; at = (at + 1) % SLOTS) {
        vv_alloc_site *s = &table->slots[at];
        uint64_t there = 0;
        if (atomic_compare_exchange_strong(&s->id, &there, id)) {
            memcpy(s->frames, frames, sizeof s->frames);
            uint32_t index = atomic_fetch_add(&table->count, 1);
            if (index >= VV_ALLOC_SITES_MAX)
                abort();
            atomic_store(&table->order[index], (uint32_t)at + 1);
            return s;
        }
        if (there == id)
            return s;
    }
}

/* Called by each wrapper, with its return address: does this allocation fail? */
static bool note(void *caller) {
    void *stack[VV_ALLOC_SITE_FRAMES + OWN_FRAMES] = {0};
    if (!table)
        return false;
    (void)backtrace(stack, VV_ALLOC_SITE_FRAMES + OWN_FRAMES);
    void *const *frames = stack;
    while (frames < stack + OWN_FRAMES && *frames != caller)
        frames++;
    uint64_t id = UINT64_C(0xcbf29ce484222325);
    for (unsigned i = 0; i < VV_ALLOC_SITE_FRAMES; i++)
        id = (id ^ (uint64_t)(uintptr_t)frames[i]) * UINT64_C(0x9E3779B97F4A7C15);
    id |= 1;
    atomic_fetch_add(&find_or_add(id, frames)->count, 1);
    if (atomic_load(&all_fail))
        return true;
    if (atomic_load(&failing_id) != id || atomic_fetch_sub(&failing_in, 1) != 1)
        return false;
    atomic_store(&any_failed, true);
    atomic_store(&all_fail, atomic_load(&failing_on));
    return true;
}

uint32_t vv_alloc_sites_callers(void) {
    uint32_t count = 0;
    for (uint32_t i = 0; vv_alloc_sites_get(i); i++) {
        uint32_t k = 0;
        while (k < i && vv_alloc_sites_get(k)->frames[0] != vv_alloc_sites_get(i)->frames[0])
            k++;
        count += k == i;
    }
    return count;
}

void vv_alloc_site_print(const vv_alloc_site *s) {
    Dl_info info;
    char program[1024] = {0};
    if (readlink("/proc/self/exe", program, sizeof program - 1) < 0 ||
        dladdr((const void *)vv_alloc_site_print, &info) == 0)
        return;
    fprintf(stderr, "addr2line -fpise %s", program);
    for (unsigned i = 0; i < VV_ALLOC_SITE_FRAMES; i++)
        if ((uintptr_t)s->frames[i] > (uintptr_t)info.dli_fbase)
            fprintf(stderr, " 0x%zx", (size_t)((uintptr_t)s->frames[i] - (uintptr_t)info.dli_fbase - 1));
    fprintf(stderr, "\n");
}

/* ---- what is wrapped ---- */

void *__real_vv_alloc(size_t bytes);
void *__wrap_vv_alloc(size_t bytes);
void *__wrap_vv_alloc(size_t bytes) {
    return note(__builtin_return_address(0)) ? NULL : __real_vv_alloc(bytes);
}

void *__real_vv_alloc_zeroed(size_t bytes);
void *__wrap_vv_alloc_zeroed(size_t bytes);
void *__wrap_vv_alloc_zeroed(size_t bytes) {
    return note(__builtin_return_address(0)) ? NULL : __real_vv_alloc_zeroed(bytes);
}

void *__real_vv_realloc(void *old, size_t bytes);
void *__wrap_vv_realloc(void *old, size_t bytes);
void *__wrap_vv_realloc(void *old, size_t bytes) {
    return note(__builtin_return_address(0)) ? NULL : __real_vv_realloc(old, bytes);
}

void *__real_vv_alloc_aligned(size_t alignment, size_t bytes);
void *__wrap_vv_alloc_aligned(size_t alignment, size_t bytes);
void *__wrap_vv_alloc_aligned(size_t alignment, size_t bytes) {
    return note(__builtin_return_address(0)) ? NULL : __real_vv_alloc_aligned(alignment, bytes);
}

void *__real_vv_alloc_bulk(size_t alignment, size_t bytes);
void *__wrap_vv_alloc_bulk(size_t alignment, size_t bytes);
void *__wrap_vv_alloc_bulk(size_t alignment, size_t bytes) {
    return note(__builtin_return_address(0)) ? NULL : __real_vv_alloc_bulk(alignment, bytes);
}

char *__real_vv_strdup(const char *text);
char *__wrap_vv_strdup(const char *text);
char *__wrap_vv_strdup(const char *text) {
    return note(__builtin_return_address(0)) ? NULL : __real_vv_strdup(text);
}

/* What allocators beside malloc() ask. */
bool __wrap_vv_alloc_must_fail(void);
bool __wrap_vv_alloc_must_fail(void) {
    return note(__builtin_return_address(0));
}

size_t __real_ZSTD_compressCCtx(ZSTD_CCtx *c, void *to, size_t room, const void *from, size_t bytes,
                                int level);
size_t __wrap_ZSTD_compressCCtx(ZSTD_CCtx *c, void *to, size_t room, const void *from, size_t bytes,
                                int level);
size_t __wrap_ZSTD_compressCCtx(ZSTD_CCtx *c, void *to, size_t room, const void *from, size_t bytes,
                                int level) {
    return note(__builtin_return_address(0)) ? (size_t)-ZSTD_error_memory_allocation
                                             : __real_ZSTD_compressCCtx(c, to, room, from, bytes, level);
}

DIR *__real_opendir(const char *path);
DIR *__wrap_opendir(const char *path);
DIR *__wrap_opendir(const char *path) {
    if (!note(__builtin_return_address(0)))
        return __real_opendir(path);
    errno = ENOMEM;
    return NULL;
}

int __real_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *attr, void *(*fn)(void *), void *arg) {
    return note(__builtin_return_address(0)) ? ENOMEM : __real_pthread_create(thread, attr, fn, arg);
}
