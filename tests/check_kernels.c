/* SPDX-License-Identifier: Apache-2.0 */
/* Every version of the strided copy in host memory, and the reference against the model. */
#include "kernels/copy.h"

#include <string.h>

#include "copy_checker.h"
#include "copy_model.h"
#include "harness.h"

/* A host version as a device: memory is malloc's, addresses are pointers. */
static bool host_alloc(void *ctx, size_t n_bytes, uint64_t *ret_address)
{
    void *p = NULL;

    (void)ctx;
    if (posix_memalign(&p, 64, n_bytes ? n_bytes : 1) != 0)
        return false;
    *ret_address = (uint64_t)(uintptr_t)p;
    return true;
}

static void host_release(void *ctx, uint64_t address)
{
    (void)ctx;
    free((void *)(uintptr_t)address);
}

static void host_upload(void *ctx, uint64_t address, const void *from, size_t n_bytes)
{
    (void)ctx;
    memcpy((void *)(uintptr_t)address, from, n_bytes);
}

static void host_download(void *ctx, void *to, uint64_t address, size_t n_bytes)
{
    (void)ctx;
    memcpy(to, (const void *)(uintptr_t)address, n_bytes);
}

static void host_run(void *ctx, const struct kvfi_copy_job *jobs, size_t n_jobs)
{
    const struct kvfi_copy_kernels *kernels = ctx;

    kernels->run(jobs, n_jobs);
}

static struct copy_device host_device(struct kvfi_copy_kernels *kernels)
{
    return (struct copy_device){.ctx = kernels,
                                .alloc = host_alloc,
                                .release = host_release,
                                .upload = host_upload,
                                .download = host_download,
                                .run = host_run};
}

static struct copy_device table_device(unsigned i, struct kvfi_copy_kernels *ret_kernels)
{
    ck_assert_int_eq(kvfi_copy_kernels_get(i, ret_kernels), 1);
    printf("%s\n", ret_kernels->name);
    return host_device(ret_kernels);
}

START_TEST(reference_agrees_with_the_model)
{
    struct kvfi_copy_kernels model = {"model", copy_model};
    struct copy_device device = host_device(&model);
    char text[COPY_CHECK_TEXT_BYTES];

    ck_assert_msg(copy_check_random(&device, rnd64(), 600, text), "%s", text);
    ck_assert_msg(copy_check_orders(&device, rnd64(), text), "%s", text);
    ck_assert_msg(copy_check_shapes(&device, rnd64(), text), "%s", text);
}
END_TEST

/* Written by hand: two tokens of three heads, token-major in the pool, head-major on the wire. */
START_TEST(dense_order_is_as_documented)
{
    const char pool[] = "a0b0c0a1b1c1..a2b2c2a3b3c3";
    const uint64_t base = (uint64_t)(uintptr_t)pool;
    const uint32_t blocks[] = {1, 0};
    char dense[25] = "";
    struct kvfi_copy_job job = {
        .kind = KVFI_COPY_PACK,
        .n_layers = 1,
        .n_kv = 1,
        .n_heads = 3,
        .n_rows = 4,
        .wire_block_rows = 3,
        .wire_row0 = 5, /* cut after one row and after four */
        .row_bytes = 2,
        .order = {KVFI_AXIS_LAYER, KVFI_AXIS_KV, KVFI_AXIS_HEAD, KVFI_AXIS_ROW}};

    job.src = (struct kvfi_paged){.bases = &base,
                                  .blocks = blocks,
                                  .block_rows = 2,
                                  .first_block = 7,
                                  .row0 = 14,
                                  .stride_block = 14,
                                  .stride_head = 2,
                                  .stride_row = 6};
    job.dense = (uint64_t)(uintptr_t)dense;
    kvfi_copy_ref(&job, 1);
    ck_assert_str_eq(dense, "a2b2c2a3a0a1b3b0b1c3c0c1");
}
END_TEST

START_TEST(tables_begin_with_the_reference)
{
    struct kvfi_copy_kernels first, k = {"", NULL};

    ck_assert_int_eq(kvfi_copy_kernels_get(0, &first), 1);
    ck_assert(first.run == kvfi_copy_ref);
    for (unsigned i = 0; kvfi_copy_kernels_get(i, &k); i++)
        ck_assert_uint_lt(i, 16);
    ck_assert(k.run == kvfi_copy_host); /* the fastest; untouched past the end */
}
END_TEST

START_TEST(random_jobs)
{
    struct kvfi_copy_kernels kernels;
    struct copy_device device = table_device((unsigned)_i, &kernels);
    char text[COPY_CHECK_TEXT_BYTES];

    ck_assert_msg(copy_check_random(&device, rnd64(), 1500, text), "%s", text);
}
END_TEST

START_TEST(all_orders)
{
    struct kvfi_copy_kernels kernels;
    struct copy_device device = table_device((unsigned)_i, &kernels);
    char text[COPY_CHECK_TEXT_BYTES];

    ck_assert_msg(copy_check_orders(&device, rnd64(), text), "%s", text);
}
END_TEST

START_TEST(all_row_sizes)
{
    struct kvfi_copy_kernels kernels;
    struct copy_device device = table_device((unsigned)_i, &kernels);
    char text[COPY_CHECK_TEXT_BYTES];

    ck_assert_msg(copy_check_row_sizes(&device, rnd64(), 1200, text), "%s", text);
}
END_TEST

START_TEST(known_shapes)
{
    struct kvfi_copy_kernels kernels;
    struct copy_device device = table_device((unsigned)_i, &kernels);
    char text[COPY_CHECK_TEXT_BYTES];

    ck_assert_msg(copy_check_shapes(&device, rnd64(), text), "%s", text);
}
END_TEST

static void fill(TCase *tc)
{
    struct kvfi_copy_kernels k;
    int n = 0;

    while (kvfi_copy_kernels_get((unsigned)n, &k))
        n++;
    tcase_add_test(tc, tables_begin_with_the_reference);
    tcase_add_test(tc, dense_order_is_as_documented);
    tcase_add_test(tc, reference_agrees_with_the_model);
    /* The reference, number 0, is what the others are compared with. */
    tcase_add_loop_test(tc, random_jobs, 1, n);
    tcase_add_loop_test(tc, all_orders, 1, n);
    tcase_add_loop_test(tc, all_row_sizes, 1, n);
    tcase_add_loop_test(tc, known_shapes, 1, n);
}

int main(void)
{
    return harness_main("kernels", fill, 120);
}
