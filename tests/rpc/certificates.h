/*
 * certificates.h - certificates for tests, made on the spot.
 */
#ifndef VV_TESTS_RPC_CERTIFICATES_H
#define VV_TESTS_RPC_CERTIFICATES_H

/* A CA with a name of its own. */
typedef struct test_ca test_ca;

test_ca *test_ca_create(const char *name);
void test_ca_destroy(test_ca *ca);

/* Its certificate, PEM; owned by the CA. */
const char *test_ca_pem(const test_ca *ca);

/* A certificate for this common name (NULL: none) and for localhost and 127.0.0.1, valid from an hour ago for
 * `valid_s` from now on, and its key; PEM, the caller's to free(). */
void test_ca_issue(test_ca *ca, const char *name, long valid_s, char **certificate_out, char **key_out);

/* A whole file. */
void test_write_file(const char *path, const char *text);

#endif
