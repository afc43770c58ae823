#include "tests/rpc/certificates.h"

#include <criterion/criterion.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct test_ca {
    EVP_PKEY *key;
    X509 *certificate;
    char *pem;
    long serial;
};

static char *text_of(BIO *bio) {
    char *data;
    long bytes = BIO_get_mem_data(bio, &data);
    char *text = calloc(1, (size_t)bytes + 1); /* the bytes have no zero at their end */
    memcpy(text, data, (size_t)bytes);
    BIO_free(bio);
    return text;
}

static char *certificate_pem(X509 *x) {
    BIO *bio = BIO_new(BIO_s_mem());
    cr_assert_eq(PEM_write_bio_X509(bio, x), 1);
    return text_of(bio);
}

static char *key_pem(EVP_PKEY *key) {
    BIO *bio = BIO_new(BIO_s_mem());
    cr_assert_eq(PEM_write_bio_PrivateKey(bio, key, NULL, NULL, 0, NULL, NULL), 1);
    return text_of(bio);
}

static void add_extension(X509 *x, X509 *issuer, int nid, const char *value) {
    X509V3_CTX context;
    X509V3_set_ctx(&context, issuer, x, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &context, nid, value);
    cr_assert_not_null(extension, "%s", value);
    X509_add_ext(x, extension, -1);
    X509_EXTENSION_free(extension);
}

static X509 *new_certificate(const char *name, EVP_PKEY *key, long serial, long valid_s) {
    X509 *x = X509_new();
    X509_set_version(x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(x), serial);
    X509_gmtime_adj(X509_getm_notBefore(x), -3600);
    X509_gmtime_adj(X509_getm_notAfter(x), valid_s);
    X509_set_pubkey(x, key);
    if (name)
        X509_NAME_add_entry_by_txt(X509_get_subject_name(x), "CN", MBSTRING_ASC, (const unsigned char *)name,
                                   -1, -1, 0);
    return x;
}

test_ca *test_ca_create(const char *name) {
    test_ca *ca = calloc(1, sizeof *ca);
    ca->key = EVP_EC_gen("P-256");
    cr_assert_not_null(ca->key);
    ca->serial = 1;
    ca->certificate = new_certificate(name, ca->key, ca->serial++, 86400);
    X509_set_issuer_name(ca->certificate, X509_get_subject_name(ca->certificate));
    add_extension(ca->certificate, ca->certificate, NID_basic_constraints, "critical,CA:TRUE");
    add_extension(ca->certificate, ca->certificate, NID_key_usage, "critical,keyCertSign,cRLSign");
    cr_assert_gt(X509_sign(ca->certificate, ca->key, EVP_sha256()), 0);
    ca->pem = certificate_pem(ca->certificate);
    return ca;
}

void test_ca_destroy(test_ca *ca) {
    X509_free(ca->certificate);
    EVP_PKEY_free(ca->key);
    free(ca->pem);
    free(ca);
}

const char *test_ca_pem(const test_ca *ca) {
    return ca->pem;
}

void test_ca_issue(test_ca *ca, const char *name, long valid_s, char **certificate_out, char **key_out) {
    EVP_PKEY *key = EVP_EC_gen("P-256");
    X509 *x = new_certificate(name, key, ca->serial++, valid_s);
    X509_set_issuer_name(x, X509_get_subject_name(ca->certificate));
    add_extension(x, ca->certificate, NID_subject_alt_name, "DNS:localhost,IP:127.0.0.1");
    cr_assert_gt(X509_sign(x, ca->key, EVP_sha256()), 0);
    *certificate_out = certificate_pem(x);
    *key_out = key_pem(key);
    X509_free(x);
    EVP_PKEY_free(key);
}

void test_write_file(const char *path, const char *text) {
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f, "%s", path);
    fputs(text, f);
    cr_assert_eq(fclose(f), 0);
}
