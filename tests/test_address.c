/* SPDX-License-Identifier: Apache-2.0 */
#include "collectives/address.h"

#include <string.h>

#include "collectives/util.h"
#include "harness.h"

START_TEST(good_addresses_come_back_as_they_were)
{
    const char *texts[] = {"127.0.0.1:1",        "10.1.2.3:65535",     "[::1]:80",
                           "[2001:db8::7]:4433", "[::ffff:1.2.3.4]:9", "[fe80::1%lo]:9"};

    for (size_t i = 0; i < KVFI_ARRAY_LEN(texts); i++) {
        char text[KVFI_ADDRESS_TEXT_BYTES];
        struct sockaddr_storage addr;

        ck_assert_int_eq(kvfi_address_parse(texts[i], &addr), KVF_OK);
        kvfi_address_format(&addr, text);
        ck_assert_str_eq(text, texts[i]);
    }
}
END_TEST

START_TEST(everything_else_is_refused)
{
    const char *texts[] = {
        "",
        ":",
        ":80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:0",
        "127.0.0.1:65536",
        "127.0.0.1:123456",
        "127.0.0.1:80x",
        "127.0.0.1:-1",
        "127.0.0.1: 80",
        "127.0.0:80",
        "[127.0.0.1]:80",
        "localhost:80",
        "::1:80",
        "[::1]",
        "[::1:80",
        "[]:80",
        "[:80",
        "[[::1]]:80",
        "[::1]x:80",
        "[11112222333344445555666677778888999911112222333344445555666677778888]:1"};

    for (size_t i = 0; i < KVFI_ARRAY_LEN(texts); i++) {
        struct sockaddr_storage addr;

        ck_assert_msg(kvfi_address_parse(texts[i], &addr) == KVF_EINVAL, "%s", texts[i]);
    }
}
END_TEST

START_TEST(a_very_long_host_is_refused)
{
    char text[5000];
    struct sockaddr_storage addr;

    memset(text, '1', sizeof(text));
    text[0] = '[';
    memcpy(text + sizeof(text) - 5, "]:80", 5);
    ck_assert_int_eq(kvfi_address_parse(text, &addr), KVF_EINVAL);
}
END_TEST

START_TEST(hosts_to_listen_on)
{
    struct sockaddr_storage addr;

    ck_assert_int_eq(kvfi_address_make("::", 0, &addr), KVF_OK);
    ck_assert_int_eq(addr.ss_family, AF_INET6);
    ck_assert_int_eq(kvfi_address_make("0.0.0.0", 65535, &addr), KVF_OK);
    ck_assert_int_eq(addr.ss_family, AF_INET);
    ck_assert_uint_eq(kvfi_address_port(&addr), 65535);
    ck_assert_int_eq(kvfi_address_make("0.0.0.0", 65536, &addr), KVF_EINVAL);
    ck_assert_int_eq(kvfi_address_make("example", 1, &addr), KVF_EINVAL);
    ck_assert_int_eq(kvfi_address_make("", 1, &addr), KVF_EINVAL);
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, good_addresses_come_back_as_they_were);
    tcase_add_test(tc, everything_else_is_refused);
    tcase_add_test(tc, a_very_long_host_is_refused);
    tcase_add_test(tc, hosts_to_listen_on);
}

int main(void)
{
    return harness_main("address", fill, 10);
}
