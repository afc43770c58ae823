#include "rpc/discovery.h"

#include <inttypes.h>
#include <limits.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "base/alloc.h"
#include "base/assert.h"
#include "base/compiler.h"
#include "base/sync.h"
#include "rpc/codec.h"
#include "varve/v1/replication.pb-c.h"

#define HELLO_PATH "/varve.v1.Replication/Hello"
#define ROUNDS_MAX 3

/* A connection that is kept. */
typedef struct contact {
    vv_address address;
    vv_peer *peer;
} contact;

struct vv_discovery {
    const vv_server_config *config;
    char node[VARVE_SLOT_NAME_BYTES_MAX + 1];
    uint8_t database_id[VARVE_DATABASE_ID_BYTES];
    bool has_database;
    struct {
        vv_mutex lock;
        bool interrupted;
        contact contacts[VV_DISCOVERY_MAX];
    } mu;
};

uint64_t vv_sighting_epoch(const vv_sighting *s) {
    return s->history_count > 0 ? s->history[s->history_count - 1].epoch : 0;
}

/* ---- life ---- */

vv_status vv_discovery_create(const vv_server_config *config, const char *node, const uint8_t *database_id,
                              vv_discovery **out) {
    vv_discovery *d = *out = vv_alloc_zeroed(sizeof *d);
    if (!d)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    d->config = config;
    snprintf(d->node, sizeof d->node, "%s", node);
    if (database_id)
        memcpy(d->database_id, database_id, sizeof d->database_id);
    d->has_database = database_id != NULL;
    vv_mutex_init(&d->mu.lock);
    return VV_STATUS_OK;
}

void vv_discovery_destroy(vv_discovery *d) {
    if (!d)
        return;
    for (size_t i = 0; i < VV_DISCOVERY_MAX; i++)
        vv_peer_destroy(d->mu.contacts[i].peer);
    vv_mutex_deinit(&d->mu.lock);
    vv_free(d);
}

void vv_discovery_interrupt(vv_discovery *d) {
    vv_mutex_lock(&d->mu.lock);
    d->mu.interrupted = true;
    for (size_t i = 0; i < VV_DISCOVERY_MAX; i++)
        if (d->mu.contacts[i].peer)
            vv_peer_interrupt(d->mu.contacts[i].peer);
    vv_mutex_unlock(&d->mu.lock);
}

void vv_discovery_allow(vv_discovery *d) {
    vv_mutex_lock(&d->mu.lock);
    d->mu.interrupted = false;
    vv_mutex_unlock(&d->mu.lock);
}

static void add_once(vv_address to[VV_DISCOVERY_MAX], size_t *count, const char *address) {
    for (size_t i = 0; i < *count; i++)
        if (strcmp(to[i], address) == 0)
            return;
    if (address[0] && *count < VV_DISCOVERY_MAX)
        snprintf(to[(*count)++], sizeof to[0], "%s", address);
}

size_t vv_discovery_addresses(const vv_server_config *config, const char *named,
                              vv_address to[VV_DISCOVERY_MAX]) {
    size_t count = 0;
    add_once(to, &count, named);
    add_once(to, &count, config->follow);
    for (size_t i = 0; i < config->peer_count; i++)
        add_once(to, &count, config->peers[i]);
    return count;
}

vv_status vv_discovery_connect(const vv_server_config *config, const char *address, vv_peer **out,
                               vv_error *err) {
    vv_peer_options options = {.address = address,
                               .token_file = config->follow_token_file,
                               .tls_ca = config->follow_tls_ca,
                               .tls_cert = config->follow_tls_cert,
                               .tls_key = config->follow_tls_key,
                               /* As large as the other's MAX_BATCH_SIZE lets a record be. */
                               .message_bytes_max = INT_MAX};
    return vv_peer_create(&options, out, err);
}

/* ---- one question ---- */

static void keep_text(char *to, size_t room, ProtobufCBinaryData from) {
    snprintf(to, room, "%.*s", (int)VV_MIN(from.len, room - 1), (const char *)from.data);
}

static vv_role parse_role(const char *name) {
    for (vv_role role = VV_ROLE_PRIMARY; role < VV_ROLE_SUPERSEDED; role++)
        if (strcmp(name, vv_role_name(role)) == 0)
            return role;
    return VV_ROLE_SUPERSEDED;
}

static void keep_answer(const vv_discovery *d, vv_sighting *to, const Varve__V1__HelloResponse *from) {
    if (from->database_id.len != sizeof to->database_id || from->n_history > VARVE_EPOCHS_MAX) {
        snprintf(to->why, sizeof to->why, "its answer makes no sense");
        return;
    }
    memcpy(to->database_id, from->database_id.data, sizeof to->database_id);
    to->foreign = d->has_database && memcmp(to->database_id, d->database_id, sizeof d->database_id) != 0;
    if (to->foreign)
        return;
    to->role = parse_role(from->role);
    to->promised_epoch = from->promised_epoch;
    to->durable_lsn = from->durable_lsn;
    keep_text(to->node, sizeof to->node, from->node);
    keep_text(to->primary, sizeof to->primary, from->primary);
    to->history_count = from->n_history;
    for (size_t i = 0; i < from->n_history; i++)
        to->history[i] = (varve_epoch){.epoch = from->history[i]->epoch,
                                       .first_lsn = from->history[i]->first_lsn,
                                       .id = from->history[i]->id};
    to->answered = true;
}

static void hello(vv_discovery *d, vv_peer *peer, uint64_t timeout_ns, vv_sighting *out) {
    Varve__V1__HelloRequest request = VARVE__V1__HELLO_REQUEST__INIT;
    if (d->has_database)
        request.database_id = (ProtobufCBinaryData){.data = d->database_id, .len = sizeof d->database_id};
    vv_codec_small packed;
    vv_codec_pack_small(&request.base, &packed);
    uint8_t *reply;
    size_t reply_bytes;
    vv_peer_error failure;
    if (!vv_peer_call(peer, HELLO_PATH, vv_slice_make(packed.data, packed.bytes), timeout_ns, &reply,
                      &reply_bytes, &failure)) {
        snprintf(out->why, sizeof out->why, "%.190s", failure.message);
        out->foreign = strcmp(failure.reason, "WRONG_DATABASE") == 0;
        out->denied = failure.code == VV_RPC_UNAUTHENTICATED || failure.code == VV_RPC_PERMISSION_DENIED;
        return;
    }
    vv_codec_arena arena;
    vv_codec_arena_init(&arena);
    ProtobufCMessage *message;
    vv_status st = vv_codec_decode(&arena, &varve__v1__hello_response__descriptor,
                                   vv_slice_make(reply, reply_bytes), &message);
    if (vv_ok(st))
        keep_answer(d, out, (const Varve__V1__HelloResponse *)message);
    else
        snprintf(out->why, sizeof out->why, "its answer can't be read");
    vv_codec_arena_deinit(&arena);
    vv_free(reply);
}

/* Where the connection to an address is kept, or may be; NULL: all places are taken. With the lock. */
static contact *place_of(vv_discovery *d, const char *address) {
    contact *free_place = NULL;
    for (size_t i = 0; i < VV_DISCOVERY_MAX; i++) {
        contact *at = &d->mu.contacts[i];
        if (at->peer && strcmp(at->address, address) == 0)
            return at;
        if (!at->peer)
            free_place = at;
    }
    return free_place;
}

/* The connection to an address, made if there is none. NULL: out->why says what is wrong. There is a place:
 * see vv_discovery_ask(). */
static contact *contact_of(vv_discovery *d, const char *address, vv_sighting *out) {
    vv_error words = {"interrupted"};
    vv_status st = VV_STATUS_OK;
    vv_mutex_lock(&d->mu.lock);
    contact *place = place_of(d, address);
    VV_ASSERT(place);
    if (!d->mu.interrupted && !place->peer) {
        st = vv_discovery_connect(d->config, address, &place->peer, &words);
        snprintf(place->address, sizeof place->address, "%s", address);
    }
    if (d->mu.interrupted || !vv_ok(st))
        place = NULL;
    vv_mutex_unlock(&d->mu.lock);
    if (!place)
        snprintf(out->why, sizeof out->why, "%.190s", words.text);
    return place;
}

static void drop_contact(vv_discovery *d, contact *place) {
    vv_mutex_lock(&d->mu.lock);
    vv_peer *peer = place->peer;
    place->peer = NULL;
    vv_mutex_unlock(&d->mu.lock);
    vv_peer_destroy(peer);
}

typedef struct question {
    vv_discovery *d;
    contact *place;
    uint64_t timeout_ns;
    vv_sighting *out;
    pthread_t thread;
    bool on_thread;
} question;

static void ask(void *arg) {
    question *q = arg;
    hello(q->d, q->place->peer, q->timeout_ns, q->out);
    if (!q->out->answered)
        drop_contact(q->d, q->place);
}

/* ---- all at once ---- */

static bool is_among(const vv_address *addresses, size_t count, const char *address) {
    for (size_t i = 0; i < count; i++)
        if (strcmp(addresses[i], address) == 0)
            return true;
    return false;
}

/* Room for all, at the cost of those who are not asked now. */
static void make_room(vv_discovery *d, const vv_address *addresses, size_t count) {
    size_t taken = 0;
    for (size_t i = 0; i < VV_DISCOVERY_MAX; i++)
        taken += d->mu.contacts[i].peer != NULL;
    for (size_t i = 0; i < VV_DISCOVERY_MAX && taken + count > VV_DISCOVERY_MAX; i++) {
        contact *at = &d->mu.contacts[i];
        if (at->peer && !is_among(addresses, count, at->address))
            drop_contact(d, at);
    }
}

void vv_discovery_ask(vv_discovery *d, const vv_address *addresses, size_t count, uint64_t timeout_ns,
                      vv_sighting *out) {
    question questions[VV_DISCOVERY_MAX];
    VV_ASSERT(count <= VV_DISCOVERY_MAX);
    make_room(d, addresses, count);
    for (size_t i = 0; i < count; i++) {
        question *q = &questions[i];
        *q = (question){.d = d, .timeout_ns = timeout_ns, .out = &out[i]};
        memset(q->out, 0, sizeof *q->out);
        snprintf(q->out->address, sizeof q->out->address, "%s", addresses[i]);
        q->place = contact_of(d, addresses[i], q->out);
        bool last = i + 1 == count; /* this thread has nothing else to do */
        q->on_thread = q->place && !last && vv_ok(vv_thread_start(&q->thread, "varve-hello", ask, q));
        if (q->place && !q->on_thread)
            ask(q);
    }
    for (size_t i = 0; i < count; i++)
        if (questions[i].on_thread)
            vv_thread_join(questions[i].thread);
}

uint64_t vv_discovery_newest_epoch(vv_discovery *d, const vv_address *addresses, size_t count,
                                   uint64_t timeout_ns, vv_address primary_out) {
    uint64_t newest = 0;
    primary_out[0] = '\0';
    vv_sighting *seen = vv_alloc(VV_MAX(count, (size_t)1) * sizeof *seen);
    if (!seen)
        return 0;
    vv_discovery_ask(d, addresses, count, timeout_ns, seen);
    for (size_t i = 0; i < count; i++) {
        const vv_sighting *s = &seen[i];
        if (!s->answered || vv_sighting_epoch(s) <= newest)
            continue;
        newest = vv_sighting_epoch(s);
        memcpy(primary_out, s->role == VV_ROLE_PRIMARY ? s->address : s->primary, sizeof(vv_address));
    }
    vv_free(seen);
    return newest;
}

/* ---- looking for the primary ---- */

static void append(vv_error *words, const vv_sighting *s, const char *what) {
    size_t used = strlen(words->text);
    snprintf(words->text + used, sizeof words->text - used, "%s%s: %s", used > 0 ? "; " : "", s->address,
             what);
}

/* Why it won't do; NULL: it does. */
static const char *objection(const vv_discovery *d, const vv_sighting *s, uint64_t least_epoch,
                             char room[96]) {
    if (s->foreign)
        return "of another database";
    if (!s->answered)
        return s->why;
    if (strcmp(s->node, d->node) == 0)
        return "this server itself, or one of the same NODE_NAME";
    if (s->role != VV_ROLE_PRIMARY) {
        snprintf(room, 96, "a %s, and no primary", vv_role_name(s->role));
        return room;
    }
    if (vv_sighting_epoch(s) < least_epoch) {
        snprintf(room, 96, "a primary of epoch %" PRIu64 ", where %" PRIu64 " is promised",
                 vv_sighting_epoch(s), least_epoch);
        return room;
    }
    return NULL;
}

typedef struct search {
    vv_address addresses[VV_DISCOVERY_MAX];
    size_t count;
    vv_sighting sightings[VV_DISCOVERY_MAX];
} search;

vv_find_result vv_discovery_find(vv_discovery *d, const vv_address *addresses, size_t count,
                                 uint64_t least_epoch, uint64_t timeout_ns, vv_sighting *out,
                                 vv_error *words) {
    const vv_sighting *best = NULL;
    bool hopeless = false, hope = false;
    words->text[0] = '\0';
    search *s = vv_alloc_zeroed(sizeof *s);
    if (!s) {
        snprintf(words->text, sizeof words->text, "out of memory");
        return VV_FIND_NONE;
    }
    for (size_t i = 0; i < count; i++)
        add_once(s->addresses, &s->count, addresses[i]);
    size_t asked = 0;
    for (int round = 0; round < ROUNDS_MAX && asked < s->count && !best; round++) {
        size_t end = s->count;
        vv_discovery_ask(d, s->addresses + asked, end - asked, timeout_ns, s->sightings + asked);
        for (; asked < end; asked++) {
            const vv_sighting *seen = &s->sightings[asked];
            char room[96];
            const char *against = objection(d, seen, least_epoch, room);
            hopeless |= seen->foreign || seen->denied;
            hope |= seen->answered;
            if (against)
                append(words, seen, against);
            else if (!best || vv_sighting_epoch(seen) > vv_sighting_epoch(best))
                best = seen;
            add_once(s->addresses, &s->count, seen->primary);
        }
    }
    vv_find_result result = best ? VV_FIND_OK : hopeless && !hope ? VV_FIND_HOPELESS : VV_FIND_NONE;
    if (best)
        *out = *best;
    vv_free(s);
    return result;
}
