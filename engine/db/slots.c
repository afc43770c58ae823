/*
 * slots.c - what is kept for readers of the log that may be away: replicas, the archive.
 *
 *   confirm --> lsn moves --> the log's hold moves (wal_hold.c) --> segments may go
 *                         '-> the lowest of all moves ------------> tombstones may go (compact.c)
 *
 * A slot is a name and an LSN up to which its reader needs nothing any more. It does two things: it holds the
 * log's segments above its LSN, up to WAL_RETENTION_MAX bytes, and it holds tombstones above it, so that a
 * reader that catches up from tables does not miss a deletion. One that would hold too much is lost: the log
 * decides that, says so, and tells us on its own thread; we remember it, so that the reader learns of it even
 * if it comes back years later.
 *
 * On disk they are a part of the manifest. Making and dropping one writes it, and so does a loss, by the
 * flusher; what is confirmed is written along with whatever writes the manifest next, and when the database
 * is closed. So after a crash a slot may be lower than it was: it then keeps more than it has to, until the
 * next confirmation. It is never higher, because memory never is.
 *
 * What is there for slots alone is older than the manifest's first_segment: recovery does not read it but for
 * the heads, and would not miss it. It is read by cursors only, which check all that they read.
 *
 * Locking: slots.change is held over a change of the list, its I/O included; slots.lock guards the list and
 * what is in it, and is a leaf but for the log's lock.
 */
#include <inttypes.h>
#include <string.h>

#include "engine/db/db_impl.h"

_Static_assert(VARVE_SLOTS_MAX == VV_SLOTS_MAX && VARVE_SLOT_NAME_BYTES_MAX == VV_SLOT_NAME_BYTES_MAX,
               "the public slots are the manifest's");

/* ---- with slots.lock ---- */

static vv_slot *find(varve_db *db, const char *name) {
    for (uint32_t i = 0; i < db->slots.count; i++)
        if (strcmp(db->slots.items[i].mark.name, name) == 0)
            return &db->slots.items[i];
    return NULL;
}

/* Of those that are not lost; UINT64_MAX: there are none. */
static uint64_t lowest_lsn(const varve_db *db) {
    uint64_t lsn = UINT64_MAX;
    for (uint32_t i = 0; i < db->slots.count; i++)
        if (!db->slots.items[i].mark.lost)
            lsn = VV_MIN(lsn, db->slots.items[i].mark.lsn);
    return lsn;
}

/* ---- for the rest of the database ---- */

uint64_t vv_db_safe_lsn(varve_db *db) {
    uint64_t set_lsn = db->state.manifest.safe_compaction_lsn;
    vv_mutex_lock(&db->slots.lock);
    uint64_t lsn = lowest_lsn(db);
    vv_mutex_unlock(&db->slots.lock);
    lsn = VV_MIN(lsn, set_lsn ? set_lsn : UINT64_MAX);
    /* 0 would mean no gate; and the very first operation, should it be a delete, hides nothing. */
    return lsn == UINT64_MAX ? 0 : VV_MAX(lsn, 1);
}

void vv_db_slots_wait_for(varve_db *db, uint64_t lsn) {
    vv_mutex_lock(&db->slots.lock);
    db->slots.awaited_lsn = lsn;
    vv_mutex_unlock(&db->slots.lock);
}

void vv_db_slots_copy(varve_db *db, vv_manifest *m) {
    vv_mutex_lock(&db->slots.lock);
    m->slot_count = db->slots.count;
    for (uint32_t i = 0; i < db->slots.count; i++)
        m->slots[i] = db->slots.items[i].mark;
    vv_mutex_unlock(&db->slots.lock);
}

void vv_db_slots_load(varve_db *db, const vv_manifest *m) {
    db->slots.count = m->slot_count;
    for (uint32_t i = 0; i < m->slot_count; i++)
        db->slots.items[i] = (vv_slot){.mark = m->slots[i]};
}

vv_status vv_db_slots_hold(varve_db *db) {
    uint64_t last_lsn = vv_wal_last_lsn(db->wal);
    for (uint32_t i = 0; i < db->slots.count; i++) {
        vv_slot *s = &db->slots.items[i];
        s->mark.lsn = VV_MIN(s->mark.lsn, last_lsn); /* the log may have been rewound */
        if (!s->mark.lost)
            VV_TRY(vv_wal_hold_create(db->wal, s->mark.name, s->mark.lsn, db->settings.wal_retention_bytes,
                                      false, &s->hold));
    }
    return VV_STATUS_OK;
}

void vv_db_slots_lost(void *arg) {
    varve_db *db = arg;
    bool any = false;
    vv_mutex_lock(&db->slots.lock);
    for (uint32_t i = 0; i < db->slots.count; i++) {
        vv_slot *s = &db->slots.items[i];
        if (!s->hold || !vv_wal_hold_is_lost(db->wal, s->hold))
            continue;
        vv_wal_hold_destroy(db->wal, s->hold);
        s->hold = NULL;
        s->mark.lost = true;
        db->slots.lost++;
        any = true;
    }
    vv_mutex_unlock(&db->slots.lock);
    if (!any)
        return;
    vv_mutex_lock(&db->state.lock);
    db->state.slots_stale = true;
    vv_cond_signal(&db->state.flush_wanted);
    vv_mutex_unlock(&db->state.lock);
    vv_db_compaction_hint(db);
}

void vv_db_slots_save(varve_db *db) {
    vv_edit nothing = {0};
    vv_error err = {.text = ""};
    vv_status st = vv_db_install(db, &nothing, &err);
    if (!vv_ok(st)) /* the next change of the manifest takes them along */
        vv_log(&db->logger, VV_LOG_WARN, "%s: slots could not be written: %s", db->dir, err.text);
}

void vv_db_slots_close(varve_db *db) {
    vv_manifest m;
    vv_db_slots_copy(db, &m);
    bool moved = m.slot_count != db->state.manifest.slot_count;
    for (uint32_t i = 0; i < m.slot_count && !moved; i++)
        moved = m.slots[i].lsn != db->state.manifest.slots[i].lsn ||
                m.slots[i].lost != db->state.manifest.slots[i].lost;
    if (moved)
        vv_db_slots_save(db);
}

/* ---- callers ---- */

static vv_status check_name(const char *name, vv_error *err) {
    if (vv_slot_name_is_sound(name, strnlen(name, VV_SLOT_NAME_BYTES_MAX + 1)))
        return VV_STATUS_OK;
    return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                   "its name is not 1 to %d letters, digits and \"._:-\"", VV_SLOT_NAME_BYTES_MAX);
}

/* Put `fresh` into the list, in the place of that of its name, which is returned in *old_out. */
static bool put(varve_db *db, const vv_slot *fresh, vv_slot *old_out, bool *replaced_out) {
    vv_mutex_lock(&db->slots.lock);
    vv_slot *s = find(db, fresh->mark.name);
    *replaced_out = s != NULL;
    if (s)
        *old_out = *s;
    else if (db->slots.count < VV_SLOTS_MAX)
        s = &db->slots.items[db->slots.count++];
    if (s)
        *s = *fresh;
    vv_mutex_unlock(&db->slots.lock);
    return s != NULL;
}

/* Out of the list; false: it is not there. *out has its hold. */
static bool take(varve_db *db, const char *name, vv_slot *out) {
    vv_mutex_lock(&db->slots.lock);
    vv_slot *s = find(db, name);
    if (s) {
        *out = *s;
        *s = db->slots.items[--db->slots.count];
    }
    vv_mutex_unlock(&db->slots.lock);
    return s != NULL;
}

/* Room for one of this name: of a full list one that is lost goes, whose reader begins anew whether it is
 * known or not. False: none did. */
static bool make_room(varve_db *db, const char *name, vv_slot *gone_out) {
    char lost[VV_SLOT_NAME_BYTES_MAX + 1] = "";
    vv_mutex_lock(&db->slots.lock);
    bool full = db->slots.count == VV_SLOTS_MAX && !find(db, name);
    for (uint32_t i = 0; full && i < db->slots.count && !lost[0]; i++)
        if (db->slots.items[i].mark.lost)
            memcpy(lost, db->slots.items[i].mark.name, sizeof lost);
    vv_mutex_unlock(&db->slots.lock);
    return lost[0] && take(db, lost, gone_out);
}

static vv_status create(varve_db *db, const char *name, uint64_t lsn, vv_error *err) {
    vv_wal_stats wal;
    vv_slot fresh = {.mark.lsn = lsn}, old = {0}, gone = {0}, none;
    vv_edit nothing = {0};
    bool replaced, ignored;
    VV_TRY(check_name(name, err));
    memcpy(fresh.mark.name, name, strlen(name));
    vv_wal_stats_get(db->wal, &wal);
    if (lsn > wal.durable_lsn)
        return vv_fail(err, vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_NONE, 0),
                       "LSN %" PRIu64 " is not durable yet", lsn);
    /* From here on what it needs stays; then it is on disk; only then is what it stood for before let go. */
    vv_status st =
        vv_wal_hold_create(db->wal, name, lsn, db->settings.wal_retention_bytes, true, &fresh.hold);
    if (!vv_ok(st))
        return vv_fail(err, st, "LSN %" PRIu64 ": %s", lsn, vv_code_text(st.code));
    bool made_room = make_room(db, name, &gone);
    if (!put(db, &fresh, &old, &replaced)) {
        vv_wal_hold_destroy(db->wal, fresh.hold);
        return vv_fail(err, vv_status_make(VV_BUSY, VV_SUB_NONE, 0), "there are %d slots already",
                       VV_SLOTS_MAX);
    }
    /* A hold that was lost while its slot was in no list was told to nobody. */
    vv_db_slots_lost(db);
    st = vv_db_file_failure(vv_db_install(db, &nothing, err));
    if (!vv_ok(st)) {
        vv_slot failed = {0};
        if (replaced)
            (void)put(db, &old, &failed, &replaced);
        else
            (void)take(db, name, &failed);
        old.hold = failed.hold;
        if (made_room)
            (void)put(db, &gone, &none, &ignored);
        vv_db_slots_lost(db);
    }
    vv_wal_hold_destroy(db->wal, old.hold);
    return st;
}

varve_status varve_slot_create(varve_db *db, const char *name, uint64_t lsn, varve_error *err) {
    vv_error *e = vv_private_error(err);
    vv_mutex_lock(&db->slots.change);
    vv_status st = create(db, name, lsn, e);
    vv_mutex_unlock(&db->slots.change);
    vv_db_compaction_hint(db); /* it may stand higher than before */
    return vv_public(vv_ok(st) ? st : vv_wrap(e, st, "slot '%.*s'", VV_SLOT_NAME_BYTES_MAX, name));
}

varve_status varve_slot_drop(varve_db *db, const char *name, varve_error *err) {
    vv_error *e = vv_private_error(err);
    vv_slot old = {0}, ignored;
    vv_edit nothing = {0};
    bool replaced;
    vv_status st = VV_STATUS_OK;
    vv_mutex_lock(&db->slots.change);
    if (take(db, name, &old)) {
        st = vv_db_install(db, &nothing, e);
        if (vv_ok(st))
            vv_wal_hold_destroy(db->wal, old.hold);
        else
            (void)put(db, &old, &ignored, &replaced);
        vv_db_slots_lost(db); /* as in create() */
    }
    vv_mutex_unlock(&db->slots.change);
    vv_db_compaction_hint(db);
    return vv_public(vv_ok(st) ? st : vv_wrap(e, vv_db_file_failure(st), "drop slot '%s'", name));
}

varve_status varve_slot_confirm(varve_db *db, const char *name, uint64_t lsn) {
    vv_wal_stats wal;
    vv_wal_stats_get(db->wal, &wal);
    lsn = VV_MIN(lsn, wal.durable_lsn);
    vv_mutex_lock(&db->slots.lock);
    vv_slot *s = find(db, name);
    bool found = s && !s->mark.lost, opens_gate = false;
    if (found && lsn > s->mark.lsn) {
        s->mark.lsn = lsn;
        vv_wal_hold_move(db->wal, s->hold, lsn);
        /* Once for all that the compactor has found held. */
        opens_gate = lowest_lsn(db) >= db->slots.awaited_lsn;
        if (opens_gate)
            db->slots.awaited_lsn = UINT64_MAX;
    }
    vv_mutex_unlock(&db->slots.lock);
    if (opens_gate)
        vv_db_compaction_hint(db);
    return vv_public(vv_status_make(found ? VV_OK : VV_NOT_FOUND, VV_SUB_NONE, 0));
}

size_t varve_slots_get(varve_db *db, varve_slot_info out[VARVE_SLOTS_MAX]) {
    vv_mutex_lock(&db->slots.lock);
    size_t count = db->slots.count;
    for (size_t i = 0; i < count; i++) {
        const vv_slot_mark *m = &db->slots.items[i].mark;
        out[i] = (varve_slot_info){.confirmed_lsn = m->lsn, .lost = m->lost};
        memcpy(out[i].name, m->name, sizeof out[i].name);
        if (!m->lost)
            out[i].held_bytes = vv_wal_held_bytes(db->wal, m->lsn);
    }
    vv_mutex_unlock(&db->slots.lock);
    return count;
}
