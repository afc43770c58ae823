#include "engine/lsm/flush.h"

vv_status vv_flush_memtable(vv_memtable *m, const vv_sst_writer_options *o, vv_sst_summary *out,
                            vv_error *err) {
    VV_ASSERT(vv_memtable_count(m) > 0);
    *out = (vv_sst_summary){0};
    vv_sst_writer *w = NULL;
    vv_iter *it = NULL;
    vv_status st = vv_sst_writer_create(o, &w, err);
    if (!vv_ok(st))
        return st;
    st = vv_memtable_iter_create(m, &it);
    if (!vv_ok(st))
        goto out;
    for (vv_iter_seek_first(it); it->valid && vv_ok(st); vv_iter_next(it)) {
        vv_entry e = it->entry;
        e.heat = VV_HEAT_WARM; /* what was just written is read soonest; if not, it is the first to leave */
        st = vv_sst_writer_add(w, &e);
    }
    if (vv_ok(st))
        st = it->status;
    if (vv_ok(st))
        st = vv_sst_writer_finish(w, out, err);
    else
        st = vv_fail(err, st, "%s: write failed", o->path);
out:
    vv_iter_destroy(it);
    vv_sst_writer_destroy(w);
    return st;
}
