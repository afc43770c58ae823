#include "rpc/tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <string.h>
#include <sys/stat.h>

#include "base/alloc.h"
#include "base/sync.h"
#include "rpc/lines.h"

#define PEM_BYTES_MAX ((size_t)4 << 20)
#define EXPIRY_WARN_S (14 * 86400)

enum { CERTIFICATE, KEY, CLIENT_CA, FILE_COUNT };

/* Tells a file from the one that stood there before. */
typedef struct stamp {
    dev_t device;
    ino_t inode;
    off_t bytes;
    struct timespec changed;
} stamp;

typedef struct material {
    char *pem[FILE_COUNT]; /* CLIENT_CA: NULL if there is none */
    stamp stamps[FILE_COUNT];
} material;

struct vv_tls {
    vv_tls_options options; /* its paths are ours, and change under `reloading` */
    vv_mutex reloading;     /* held while files are read; before mu.lock */
    stamp tried[FILE_COUNT];
    struct {
        vv_mutex lock;
        material now;
        uint64_t generation;
    } mu;
};

static vv_status invalid(void) {
    return vv_status_make(VV_INVALID_ARGUMENT, VV_SUB_BAD_OPTION, 0);
}

struct vv_tls_next {
    vv_tls_options options; /* as of vv_tls: they are handed over */
    material material;
};

static const char *path_of(const vv_tls_options *o, int file) {
    return file == CERTIFICATE ? o->certificate : file == KEY ? o->key : o->client_ca;
}

static const char *key_name(int file) {
    return file == CERTIFICATE ? "TLS_CERT" : file == KEY ? "TLS_KEY" : "TLS_CLIENT_CA";
}

/* ---- checks ---- */

/* The first words of what libcrypto has to say, whose list is emptied. */
static const char *crypto_words(void) {
    unsigned long code = ERR_peek_error();
    const char *words = code ? ERR_reason_error_string(code) : NULL;
    ERR_clear_error();
    return words ? words : "not valid";
}

/* An encrypted key is refused: the default would ask for the password on the terminal. */
static int no_password(char *buf, int buf_bytes, int writing, void *arg) {
    (void)buf;
    (void)buf_bytes;
    (void)writing;
    (void)arg;
    return -1;
}

static X509 *read_certificate(BIO *from) {
    return PEM_read_bio_X509(from, NULL, no_password, NULL);
}

static void warn_of_expiry(const vv_tls_options *o, int file, const X509 *x) {
    time_t soon = time(NULL) + EXPIRY_WARN_S;
    const ASN1_TIME *end = X509_get0_notAfter(x);
    if (X509_cmp_current_time(end) < 0)
        vv_log(o->log, VV_LOG_WARN, "%s %s has expired", key_name(file), path_of(o, file));
    else if (X509_cmp_time(end, &soon) < 0)
        vv_log(o->log, VV_LOG_WARN, "%s %s expires within 14 days", key_name(file), path_of(o, file));
    if (X509_cmp_current_time(X509_get0_notBefore(x)) > 0)
        vv_log(o->log, VV_LOG_WARN, "%s %s is not valid yet", key_name(file), path_of(o, file));
}

/* All certificates of a file parse; *first_out is the first, the caller's. */
static vv_status check_certificates(const vv_tls_options *o, int file, const char *pem, X509 **first_out,
                                    vv_error *err) {
    *first_out = NULL;
    BIO *from = BIO_new_mem_buf(pem, -1);
    if (!from)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_status st = VV_STATUS_OK;
    for (;;) {
        X509 *x = read_certificate(from);
        if (!x)
            break;
        warn_of_expiry(o, file, x);
        if (*first_out)
            X509_free(x);
        else
            *first_out = x;
    }
    bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    if (!at_end || !*first_out)
        st = vv_fail(err, invalid(), "no PEM certificate: %s", crypto_words());
    ERR_clear_error();
    BIO_free(from);
    if (!vv_ok(st)) {
        X509_free(*first_out);
        *first_out = NULL;
    }
    return st;
}

static vv_status check_key(const char *pem, const X509 *certificate, vv_error *err) {
    BIO *from = BIO_new_mem_buf(pem, -1);
    if (!from)
        return vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0);
    vv_status st = VV_STATUS_OK;
    EVP_PKEY *key = PEM_read_bio_PrivateKey(from, NULL, no_password, NULL);
    if (!key)
        st = vv_fail(err, invalid(), "no PEM private key without a password: %s", crypto_words());
    else if (X509_check_private_key(certificate, key) != 1)
        st = vv_fail(err, invalid(), "it is not the key of the certificate in TLS_CERT");
    ERR_clear_error();
    EVP_PKEY_free(key);
    BIO_free(from);
    return st;
}

static vv_status check(const vv_tls_options *o, const material *m, vv_error *err) {
    X509 *own, *ca = NULL;
    vv_status st = check_certificates(o, CERTIFICATE, m->pem[CERTIFICATE], &own, err);
    int file = CERTIFICATE;
    if (vv_ok(st)) {
        file = KEY;
        st = check_key(m->pem[KEY], own, err);
    }
    if (vv_ok(st) && m->pem[CLIENT_CA]) {
        file = CLIENT_CA;
        st = check_certificates(o, CLIENT_CA, m->pem[CLIENT_CA], &ca, err);
    }
    X509_free(own);
    X509_free(ca);
    return vv_ok(st) ? st : vv_wrap(err, st, "%s = %s", key_name(file), path_of(o, file));
}

/* ---- files ---- */

static stamp stamp_of(const char *path) {
    struct stat file;
    if (stat(path, &file) != 0)
        return (stamp){0};
    return (stamp){
        .device = file.st_dev, .inode = file.st_ino, .bytes = file.st_size, .changed = file.st_mtim};
}

static bool stamp_equal(const stamp *a, const stamp *b) {
    return a->device == b->device && a->inode == b->inode && a->bytes == b->bytes &&
           a->changed.tv_sec == b->changed.tv_sec && a->changed.tv_nsec == b->changed.tv_nsec;
}

static void release(material *m) {
    if (m->pem[KEY])
        OPENSSL_cleanse(m->pem[KEY], strlen(m->pem[KEY]));
    for (int i = 0; i < FILE_COUNT; i++)
        vv_free(m->pem[i]);
    *m = (material){0};
}

static void warn_of_mode(const vv_tls_options *o) {
    struct stat file;
    if (stat(o->key, &file) == 0 && (file.st_mode & (S_IROTH | S_IWOTH)))
        vv_log(o->log, VV_LOG_WARN, "TLS_KEY %s is open to every user of this machine", o->key);
}

/* Everything read and found right, or nothing. */
static vv_status load(const vv_tls_options *o, material *out, vv_error *err) {
    *out = (material){0};
    vv_status st = VV_STATUS_OK;
    for (int i = 0; vv_ok(st) && i < FILE_COUNT; i++) {
        if (!*path_of(o, i))
            continue;
        size_t bytes;
        out->stamps[i] = stamp_of(path_of(o, i)); /* before the reading: a change meanwhile is seen again */
        st = vv_file_read(path_of(o, i), PEM_BYTES_MAX, &out->pem[i], &bytes, err);
        if (!vv_ok(st))
            st = vv_wrap(err, st, "%s", key_name(i));
        else if (strlen(out->pem[i]) != bytes)
            st = vv_fail(err, invalid(), "%s = %s: not text", key_name(i), path_of(o, i));
    }
    if (vv_ok(st))
        st = check(o, out, err);
    if (!vv_ok(st))
        release(out);
    return st;
}

/* `reloading` is held. Takes over what `next` has. */
static void use(vv_tls *tls, material *next) {
    vv_mutex_lock(&tls->mu.lock);
    material old = tls->mu.now;
    tls->mu.now = *next;
    tls->mu.generation++;
    vv_mutex_unlock(&tls->mu.lock);
    *next = (material){0};
    release(&old);
    warn_of_mode(&tls->options);
}

vv_status vv_tls_reload(vv_tls *tls, vv_error *err) {
    vv_mutex_lock(&tls->reloading);
    for (int i = 0; i < FILE_COUNT; i++)
        tls->tried[i] = stamp_of(path_of(&tls->options, i));
    material next;
    vv_status st = load(&tls->options, &next, err);
    if (vv_ok(st))
        use(tls, &next);
    vv_mutex_unlock(&tls->reloading);
    return st;
}

/* ---- other paths ---- */

static void free_paths(vv_tls_options *o) {
    vv_free((void *)(uintptr_t)o->certificate);
    vv_free((void *)(uintptr_t)o->key);
    vv_free((void *)(uintptr_t)o->client_ca);
    *o = (vv_tls_options){0};
}

/* Options whose paths are our own. False: no memory. */
static bool copy_options(vv_tls_options *to, const vv_tls_options *from) {
    *to = *from;
    to->certificate = vv_strdup(from->certificate);
    to->key = vv_strdup(from->key);
    to->client_ca = vv_strdup(from->client_ca);
    if (to->certificate && to->key && to->client_ca)
        return true;
    free_paths(to);
    return false;
}

vv_status vv_tls_prepare(vv_tls *tls, const vv_tls_options *options, vv_tls_next **out, vv_error *err) {
    *out = NULL;
    vv_tls_next *next = vv_alloc_zeroed(sizeof *next);
    if (!next || !copy_options(&next->options, options)) {
        vv_free(next);
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "TLS");
    }
    next->options.client_required = tls->options.client_required;
    next->options.log = tls->options.log;
    vv_status st = load(&next->options, &next->material, err);
    if (vv_ok(st))
        *out = next;
    else
        vv_tls_drop(next);
    return st;
}

void vv_tls_take(vv_tls *tls, vv_tls_next *next) {
    vv_mutex_lock(&tls->reloading);
    vv_tls_options old = tls->options;
    tls->options.certificate = next->options.certificate;
    tls->options.key = next->options.key;
    tls->options.client_ca = next->options.client_ca;
    next->options = old;
    memcpy(tls->tried, next->material.stamps, sizeof tls->tried);
    use(tls, &next->material);
    vv_mutex_unlock(&tls->reloading);
    vv_tls_drop(next);
}

void vv_tls_drop(vv_tls_next *next) {
    if (!next)
        return;
    release(&next->material);
    free_paths(&next->options);
    vv_free(next);
}

/* ---- life ---- */

/* Since they were tried last, so that a file that is wrong is not complained of again and again. */
static bool changed(vv_tls *tls) {
    bool different = false;
    vv_mutex_lock(&tls->reloading);
    for (int i = 0; i < FILE_COUNT; i++) {
        stamp now = stamp_of(path_of(&tls->options, i));
        different |= !stamp_equal(&now, &tls->tried[i]);
    }
    vv_mutex_unlock(&tls->reloading);
    return different;
}

void vv_tls_reload_if_changed(vv_tls *tls) {
    if (!changed(tls))
        return;
    vv_error err;
    vv_status st = vv_tls_reload(tls, &err);
    if (vv_ok(st))
        vv_log(tls->options.log, VV_LOG_INFO, "TLS: new files are in use");
    else
        vv_log(tls->options.log, VV_LOG_ERROR, "TLS: the old files stay in use: %s", err.text);
}

bool vv_tls_if_newer(vv_tls *tls, uint64_t *generation, void (*fn)(void *arg, const vv_tls_pem *pem),
                     void *arg) {
    vv_mutex_lock(&tls->mu.lock);
    bool newer = *generation != tls->mu.generation;
    if (newer) {
        char **pem = tls->mu.now.pem;
        fn(arg, &(vv_tls_pem){.certificate = pem[CERTIFICATE],
                              .key = pem[KEY],
                              .roots = pem[CLIENT_CA] ? pem[CLIENT_CA] : pem[CERTIFICATE]});
        *generation = tls->mu.generation;
    }
    vv_mutex_unlock(&tls->mu.lock);
    return newer;
}

const vv_tls_options *vv_tls_options_of(const vv_tls *tls) {
    return &tls->options;
}

vv_status vv_tls_create(const vv_tls_options *options, vv_tls **out, vv_error *err) {
    *out = NULL;
    vv_tls *tls = vv_alloc_zeroed(sizeof *tls);
    if (!tls)
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "TLS");
    if (!copy_options(&tls->options, options)) {
        vv_free(tls);
        return vv_fail(err, vv_status_make(VV_NO_MEMORY, VV_SUB_NONE, 0), "TLS");
    }
    vv_mutex_init(&tls->reloading);
    vv_mutex_init(&tls->mu.lock);
    vv_status st = vv_tls_reload(tls, err);
    if (vv_ok(st))
        *out = tls;
    else
        vv_tls_destroy(tls);
    return st;
}

void vv_tls_destroy(vv_tls *tls) {
    if (!tls)
        return;
    release(&tls->mu.now);
    free_paths(&tls->options);
    vv_mutex_deinit(&tls->reloading);
    vv_mutex_deinit(&tls->mu.lock);
    vv_free(tls);
}
