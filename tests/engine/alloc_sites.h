/*
 * alloc_sites.h - every place that allocates, known by who called it, and made to fail by that name.
 *
 * By the linker's --wrap, for the programs that ask for it in CMakeLists.txt. A site is the chain of the last
 * VV_ALLOC_SITE_FRAMES callers: so it is the same in every run of the process and its forks whatever other
 * threads do, where the n-th allocation would be another one each time. Beside vv_alloc() and its kin, what
 * takes memory on its own counts: Zstd, directory listings, and threads.
 */
#ifndef VV_TESTS_ENGINE_ALLOC_SITES_H
#define VV_TESTS_ENGINE_ALLOC_SITES_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define VV_ALLOC_SITE_FRAMES 5
#define VV_ALLOC_SITES_MAX   8192

typedef struct vv_alloc_site {
    _Atomic uint64_t id;    /* 0: free place */
    _Atomic uint64_t count; /* allocations, in all runs */
    void *frames[VV_ALLOC_SITE_FRAMES];
} vv_alloc_site;

typedef enum vv_alloc_failure {
    VV_ALLOC_FAILS_ONCE,    /* the n-th allocation of the site, and no other */
    VV_ALLOC_FAILS_FROM_ON, /* it, and every one of all sites from then on */
} vv_alloc_failure;

/* Shared with forks: sites that they find are seen here. Once, before anything else. */
void vv_alloc_sites_begin(void);

/* The index-th site that was met so far, or NULL behind the last; the order does not change. */
const vv_alloc_site *vv_alloc_sites_get(uint32_t index);

/* From now on, in this process, the n-th allocation of the site (1 is the first) fails. */
void vv_alloc_sites_fail(uint64_t id, uint64_t n, vv_alloc_failure how);
/* Memory is back. */
void vv_alloc_sites_mend(void);
/* Has anything failed since vv_alloc_sites_fail()? */
bool vv_alloc_sites_failed(void);

/* How many different addresses the allocating functions were called from. */
uint32_t vv_alloc_sites_callers(void);

/* A command that shows where a site is. */
void vv_alloc_site_print(const vv_alloc_site *s);

#endif
