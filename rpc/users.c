#include "rpc/users.h"

#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"

#define SLOT_COUNT (2 * (size_t)VV_USERS_MAX) /* half of them stay empty: a search ends soon */

/* FNV-1a: G. Fowler, L. C. Noll, K.-P. Vo. Names come from files and from certificates that we trust. */
static uint32_t hash_of(vv_slice name) {
    const uint8_t *at = name.data;
    uint32_t hash = 2166136261u;
    for (size_t i = 0; i < name.bytes; i++)
        hash = (hash ^ at[i]) * 16777619u;
    return hash;
}

bool vv_user_name_ok(vv_slice name) {
    const uint8_t *at = name.data;
    if (name.bytes == 0 || name.bytes > VV_USER_NAME_BYTES_MAX)
        return false;
    for (size_t i = 0; i < name.bytes; i++)
        if (at[i] < ' ' || at[i] > '~' || at[i] == '"' || at[i] == '\\')
            return false;
    return true;
}

/* The user, or NULL and where it belongs. */
static vv_user *find(const vv_users *u, vv_slice name, uint32_t hash, size_t *slot_out) {
    for (size_t i = hash % SLOT_COUNT;; i = (i + 1) % SLOT_COUNT) {
        /* Acquire: pairs with the release in vv_users_get(). */
        vv_user *user = atomic_load_explicit(&u->slots[i], memory_order_acquire);
        *slot_out = i;
        if (!user || (user->hash == hash && vv_slice_equal(vv_slice_str(user->name), name)))
            return user;
    }
}

static vv_user *user_new(const vv_users *u, vv_slice name) {
    vv_user *user = vv_alloc_zeroed(sizeof *user + name.bytes + 1);
    if (!user)
        return NULL;
    memcpy(user->name, name.data, name.bytes);
    user->hash = hash_of(name);
    user->access = u->access;
    vv_rate_bucket_init(&user->reads, u->mu.defaults.reads);
    vv_rate_bucket_init(&user->writes, u->mu.defaults.writes);
    return user;
}

vv_user *vv_users_get(vv_users *u, vv_slice name) {
    VV_DCHECK(vv_user_name_ok(name));
    size_t slot;
    uint32_t hash = hash_of(name);
    vv_user *user = find(u, name, hash, &slot);
    if (user)
        return user;
    vv_mutex_lock(&u->mu.lock);
    user = find(u, name, hash, &slot);
    if (!user && u->mu.count < VV_USERS_MAX) {
        user = user_new(u, name);
        if (user) {
            u->mu.count++;
            atomic_store_explicit(&u->slots[slot], user, memory_order_release);
        }
    }
    vv_mutex_unlock(&u->mu.lock);
    return user ? user : u->others;
}

static void set_limits(vv_user *user, const vv_user_limits *limits) {
    vv_rate_bucket_set(&user->reads, limits->reads);
    vv_rate_bucket_set(&user->writes, limits->writes);
}

void vv_users_limit(vv_users *u, vv_user *user, const vv_user_limits *limits) {
    vv_mutex_lock(&u->mu.lock);
    set_limits(user, limits);
    vv_mutex_unlock(&u->mu.lock);
}

void vv_users_reset_limits(vv_users *u, const vv_user_limits *defaults) {
    vv_mutex_lock(&u->mu.lock);
    u->mu.defaults = *defaults;
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        vv_user *user = atomic_load_explicit(&u->slots[i], memory_order_relaxed);
        if (user)
            set_limits(user, &u->mu.defaults);
    }
    set_limits(u->others, &u->mu.defaults);
    vv_mutex_unlock(&u->mu.lock);
}

void vv_users_each(const vv_users *u, void (*see)(void *arg, const vv_user *user), void *arg) {
    for (size_t i = 0; i < SLOT_COUNT; i++) {
        const vv_user *user = atomic_load_explicit(&u->slots[i], memory_order_acquire);
        if (user)
            see(arg, user);
    }
    see(arg, u->others);
}

vv_status vv_users_init(vv_users *u, const vv_user_limits *defaults, struct vv_access *access) {
    *u = (vv_users){.access = access, .mu = {.defaults = *defaults}};
    u->slots = vv_alloc_zeroed(SLOT_COUNT * sizeof *u->slots);
    u->others = user_new(u, vv_slice_str("others"));
    if (!u->slots || !u->others) {
        vv_free(u->slots);
        vv_free(u->others);
        *u = (vv_users){0};
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    }
    vv_mutex_init(&u->mu.lock);
    u->anybody = vv_users_get(u, vv_slice_str(VV_USER_DEFAULT));
    return VV_STATUS_OK;
}

void vv_users_deinit(vv_users *u) {
    if (!u->slots)
        return;
    for (size_t i = 0; i < SLOT_COUNT; i++)
        vv_free(atomic_load_explicit(&u->slots[i], memory_order_relaxed));
    vv_free(u->slots);
    vv_free(u->others);
    vv_mutex_deinit(&u->mu.lock);
    u->slots = NULL;
}
