/*
 * A process that is killed in the middle of its writes: what it acknowledged is there, whole and in order.
 * And a device whose blocks are larger than what direct I/O asks for, when the power goes in the middle of
 * one.
 */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

#include "engine/db/db_impl.h"
#include "io/sim/io_sim.h"
#include "tests/engine/db_fixture.h"
#include "tests/support/kill_round.h"

static void setup(void) {
    vv_tempdir();
}

TestSuite(db_crash, .init = setup, .fini = vv_tempdir_cleanup, .timeout = 120);

#define KEYS 500

/* Write n = start, start + 1, ... for ever: a batch that puts n under two keys and deletes a third; tell each
 * acknowledged n through the pipe. */
static void write_for_ever(int fd, uint64_t start) {
    fx_open_with(fx_options("MEMTABLE_SIZE", "256KiB", "WAL_SEGMENT_SIZE", "256KiB", NULL));
    varve_batch *b = varve_batch_create();
    for (uint64_t n = start;; n++) {
        char left[32], right[32], gone[32], value[64];
        snprintf(left, sizeof left, "left%04" PRIu64, n % KEYS);
        snprintf(right, sizeof right, "right%04" PRIu64, n % KEYS);
        snprintf(gone, sizeof gone, "left%04" PRIu64, (n + KEYS / 2) % KEYS);
        int value_bytes = snprintf(value, sizeof value, "%" PRIu64, n);
        varve_batch_clear(b);
        if (!varve_ok(varve_batch_put(b, left, strlen(left), value, (size_t)value_bytes)) ||
            !varve_ok(varve_batch_put(b, right, strlen(right), value, (size_t)value_bytes)) ||
            !varve_ok(varve_batch_delete(b, gone, strlen(gone))) ||
            !varve_ok(varve_write(fx_db, b, NULL, NULL)))
            _exit(3);
        if (write(fd, &n, sizeof n) != sizeof n)
            _exit(4);
    }
}

static uint64_t number_at(const char *name, uint64_t slot) {
    char key[32], text[32] = "";
    varve_value v;
    snprintf(key, sizeof key, "%s%04" PRIu64, name, slot);
    varve_status st = varve_get(fx_db, key, strlen(key), &v);
    if (st.code == VARVE_NOT_FOUND)
        return 0;
    cr_assert(varve_ok(st));
    memcpy(text, v.data, v.bytes < 31 ? v.bytes : 31);
    varve_value_release(&v);
    return strtoull(text, NULL, 10);
}

/* The state must be that after some n, with acked <= n <= acked + 1 (one may have been under way). */
static uint64_t check_state(uint64_t acked) {
    uint64_t newest = 0;
    for (uint64_t slot = 0; slot < KEYS; slot++) {
        uint64_t n = number_at("right", slot);
        newest = n > newest ? n : newest;
    }
    cr_assert(newest == acked || newest == acked + 1, "acknowledged %" PRIu64 ", found %" PRIu64, acked,
              newest);
    for (uint64_t slot = 0; slot < KEYS; slot++) {
        /* The last n <= newest that put this slot, and the last that deleted left of it. */
        uint64_t put = newest < slot ? 0 : newest - (newest - slot) % KEYS;
        uint64_t deleter = (slot + KEYS / 2) % KEYS;
        uint64_t deleted = newest < deleter ? 0 : newest - (newest - deleter) % KEYS;
        cr_assert_eq(number_at("right", slot), put);
        cr_assert_eq(number_at("left", slot), put > deleted ? put : 0, "slot %" PRIu64, slot);
    }
    return newest;
}

Test(db_crash, what_was_acknowledged_survives_a_kill_and_batches_are_whole) {
    uint64_t seed = vv_test_seed();
    uint64_t newest = 0;
    for (int round = 0; round < 8; round++) {
        uint64_t acked = vv_kill_round(write_for_ever, newest + 1, 1 + vv_test_random(&seed) % 3000);
        fx_open();
        newest = check_state(acked);
        fx_close();
    }
}

#define TORN_PUTS 12
#define TORN_CUTS 16

typedef struct torn_image {
    vv_sim_disk *disk;
    uint64_t acked;
} torn_image;

static struct {
    vv_sim_disk *disk;
    _Atomic uint64_t acked;
    _Atomic size_t count;
    torn_image images[TORN_PUTS * TORN_CUTS];
} torn;

/* Of a write to the log that is not synced yet. */
static void tear(void *arg, const vv_sim_event *e) {
    (void)arg;
    uint64_t acked = atomic_load(&torn.acked);
    if (e->op != VV_SIM_WRITE || acked == 0 || !strstr(e->path, "/wal-") || e->offset == 0)
        return;
    for (uint64_t seed = 0; seed < TORN_CUTS; seed++) {
        size_t n = atomic_fetch_add(&torn.count, 1);
        if (n >= TORN_PUTS * TORN_CUTS)
            return;
        vv_sim_crash how = {.survival = VV_SIM_SURVIVES_SOME, .seed = seed, .destroys = true};
        torn.images[n] = (torn_image){.disk = vv_sim_disk_crash(torn.disk, &how), .acked = acked};
    }
}

static void open_sim(vv_sim_disk *disk) {
    varve_options *o = fx_options("WAL_SEGMENT_SIZE", "256KiB", "MEMTABLE_SIZE", "256KiB", NULL);
    vv_status st = vv_db_open_on(vv_sim_backend_create(disk), "/db", o, &fx_db, (vv_error *)&fx_err);
    varve_options_destroy(o);
    cr_assert(vv_ok(st), "%s", fx_err.text);
}

Test(db_crash, a_torn_block_of_the_device_holds_nothing_that_was_acknowledged) {
    vv_sim_options o = {.seed = 1, .align_bytes = 512, .atomic_block_bytes = 16384};
    torn.disk = vv_sim_disk_create(&o);
    open_sim(torn.disk);
    fx_put("key", "first");
    atomic_store(&torn.acked, 1);
    vv_sim_disk_set_hooks(torn.disk, &(vv_sim_hooks){.after = tear});
    for (int i = 1; i < TORN_PUTS; i++)
        atomic_store(&torn.acked, fx_put("key", "value"));
    vv_sim_disk_set_hooks(torn.disk, &(vv_sim_hooks){0});
    fx_close();
    size_t count = VV_MIN(atomic_load(&torn.count), (size_t)(TORN_PUTS * TORN_CUTS));
    cr_assert_gt(count, 100);
    for (size_t i = 0; i < count; i++) {
        open_sim(torn.images[i].disk);
        cr_assert_geq(varve_visible_lsn(fx_db), torn.images[i].acked, "image %zu", i);
        fx_close();
        vv_sim_disk_destroy(torn.images[i].disk);
    }
    vv_sim_disk_destroy(torn.disk);
}

static pthread_mutex_t tail_lock = PTHREAD_MUTEX_INITIALIZER; /* events come from several threads */
static struct {
    vv_sim_disk *disk, *image; /* what a power cut leaves of it */
    vv_sim_disk *recovered;    /* the disk of the recovery, */
    size_t count;
    torn_image images[512];
} tail;

/* The first frame of a segment that was made for it is being written. */
static void cut_before_large(void *arg, const vv_sim_event *e) {
    (void)arg;
    pthread_mutex_lock(&tail_lock);
    if (!tail.image && e->op == VV_SIM_WRITE && strstr(e->path, "/wal-") && e->offset > 0 &&
        e->offset < 65536 && e->bytes > 300000)
        tail.image = vv_sim_disk_crash(tail.disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_SYNCED});
    pthread_mutex_unlock(&tail_lock);
}

static void cut_recovery(void *arg, const vv_sim_event *e) {
    (void)arg;
    if (e->op != VV_SIM_UNLINK && e->op != VV_SIM_RENAME)
        return;
    pthread_mutex_lock(&tail_lock);
    for (uint64_t seed = 0; seed < 32 && tail.count < VV_ARRAY_COUNT(tail.images); seed++) {
        vv_sim_crash how = {.survival = VV_SIM_SURVIVES_SOME, .seed = seed};
        tail.images[tail.count++].disk = vv_sim_disk_crash(tail.recovered, &how);
    }
    pthread_mutex_unlock(&tail_lock);
}

/* Until the log's thread has made the next one, and rests. */
static void await_segment(void) {
    bool ready = false;
    for (int i = 0; !ready && i < 10000000; i++) {
        sched_yield();
        cr_assert(vv_ok(vv_path_exists(fx_db->io, "/db/wal-0000000000000002.log", &ready, NULL)));
    }
    cr_assert(ready);
}

/* Behind the last frame there are two segments then: the one that was ready and too small, and the large one.
 * They go one after the other, the newest first. */
Test(db_crash, segments_at_the_end_that_hold_nothing_go_without_leaving_a_gap) {
    static char value[600 * 1024];
    tail.disk = vv_sim_disk_create(&(vv_sim_options){.seed = 1});
    open_sim(tail.disk);
    fx_put("key", "first");
    await_segment();
    vv_sim_disk_set_hooks(tail.disk, &(vv_sim_hooks){.after = cut_before_large});
    cr_assert(varve_ok(varve_put(fx_db, "large", 5, value, sizeof value, NULL, NULL)));
    vv_sim_disk_set_hooks(tail.disk, &(vv_sim_hooks){0});
    fx_close();
    cr_assert_not_null(tail.image);
    tail.recovered = vv_sim_disk_crash(tail.image, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL});
    vv_sim_disk_set_hooks(tail.recovered, &(vv_sim_hooks){.after = cut_recovery});
    open_sim(tail.recovered);
    vv_sim_disk_set_hooks(tail.recovered, &(vv_sim_hooks){0});
    fx_expect("key", "first");
    fx_close();
    cr_assert_geq(tail.count, 64);
    for (size_t i = 0; i < tail.count; i++) {
        open_sim(tail.images[i].disk);
        fx_expect("key", "first");
        fx_close();
        vv_sim_disk_destroy(tail.images[i].disk);
    }
    vv_sim_disk_destroy(tail.recovered);
    vv_sim_disk_destroy(tail.image);
    vv_sim_disk_destroy(tail.disk);
}

static _Thread_local bool manifest_renamed; /* the log's thread syncs the directory, too */

static vv_sim_fault fail_the_sync_of_the_name(void *arg, const vv_sim_event *e) {
    (void)arg;
    if (e->op == VV_SIM_RENAME && strstr(e->path, "MANIFEST"))
        manifest_renamed = true;
    bool fails = e->op == VV_SIM_DIR_SYNC && manifest_renamed;
    manifest_renamed &= !fails;
    return fails ? VV_SIM_FAULT_EIO : VV_SIM_FAULT_NONE;
}

Test(db_crash, a_table_that_the_manifest_may_name_keeps_its_file) {
    vv_sim_disk *disk = vv_sim_disk_create(&(vv_sim_options){.seed = 1}), *after[2];
    open_sim(disk);
    fx_put("key", "value");
    vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){.fault = fail_the_sync_of_the_name});
    cr_assert(!varve_ok(varve_flush(fx_db)));
    after[0] = vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_ALL});
    after[1] = vv_sim_disk_crash(disk, &(vv_sim_crash){.survival = VV_SIM_SURVIVES_SYNCED});
    vv_sim_disk_set_hooks(disk, &(vv_sim_hooks){0});
    fx_close();
    for (int i = 0; i < 2; i++) {
        open_sim(after[i]);
        fx_expect("key", "value");
        fx_close();
        vv_sim_disk_destroy(after[i]);
    }
    vv_sim_disk_destroy(disk);
}
