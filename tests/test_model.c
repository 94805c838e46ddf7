/* SPDX-License-Identifier: Apache-2.0 */
#include "tools/model.h"

#include <string.h>
#include <unistd.h>

#include "harness.h"

/* Writes a model file with ' for ", loads it, removes it. */
static bool load(const char *quoted, struct tool_error *error, struct model *ret)
{
    char path[] = "/tmp/kvferry-model-XXXXXX.json";
    char text[2048];
    int fd = mkstemps(path, 5);
    bool ok;

    ck_assert_int_ge(fd, 0);
    ck_assert_uint_lt(strlen(quoted), sizeof(text));
    for (size_t i = 0; i <= strlen(quoted); i++)
        text[i] = (char)(quoted[i] == '\'' ? '"' : quoted[i]);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    (void)close(fd);
    ok = model_load(path, error, ret);
    (void)unlink(path);
    return ok;
}

static struct model shipped(const char *name)
{
    struct model m;
    struct tool_error error;
    char path[512];

    (void)snprintf(path, sizeof(path), "%s/%s.json", TEST_MODELS_DIR, name);
    ck_assert_msg(model_load(path, &error, &m), "%s", error.text);
    ck_assert_str_eq(m.name, name);
    ck_assert_ptr_nonnull(strstr(m.source, "config.json"));
    return m;
}

START_TEST(shipped_models_have_their_published_sizes)
{
    static const struct {
        const char *name;
        uint64_t token_bytes;
        uint32_t n_layers, n_heads, n_kv;
    } cases[] = {
        {"llama-3.1-8b", 131072, 32, 8, 2},
        {"llama-3.1-70b", 327680, 80, 8, 2},
        {"qwen3-235b-a22b", 192512, 94, 4, 2},
        {"deepseek-r1", 70272, 61, 1, 1},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct model m = shipped(cases[i].name);

        ck_assert_uint_eq(m.n_groups, 1);
        ck_assert_uint_eq(m.n_layers, cases[i].n_layers);
        ck_assert_uint_eq(m.n_heads, cases[i].n_heads);
        ck_assert_uint_eq(m.n_kv, cases[i].n_kv);
        ck_assert_uint_eq(model_group_token_bytes(&m, 0), cases[i].token_bytes);
        ck_assert_uint_eq(m.group_window_tokens[0], 0);
    }
}
END_TEST

START_TEST(alternating_windows_are_two_groups)
{
    struct model m = shipped("gpt-oss-120b");

    ck_assert_uint_eq(m.n_groups, 2);
    ck_assert_uint_eq(m.group_window_tokens[0], 0);
    ck_assert_uint_eq(m.group_window_tokens[1], 128);
    for (uint32_t l = 0; l < 36; l++)
        ck_assert_uint_eq(m.group_of_layer[l], l % 2 == 0 ? 1 : 0);
    ck_assert_uint_eq(model_group_token_bytes(&m, 0), 18 * 2 * 8 * 128);
    ck_assert_uint_eq(model_group_token_bytes(&m, 1), 18 * 2 * 8 * 128);
}
END_TEST

START_TEST(a_cut_model_keeps_its_first_layers)
{
    struct model m = shipped("gpt-oss-120b");
    struct tool_error error;

    ck_assert(model_cut(&m, 3, &error));
    ck_assert_uint_eq(m.n_layers, 3);
    ck_assert_uint_eq(model_group_token_bytes(&m, 1), 2 * 2 * 8 * 128);
    ck_assert(!model_cut(&m, 4, &error));
    ck_assert_ptr_nonnull(strstr(error.text, "4 layers"));
    ck_assert_ptr_nonnull(strstr(error.text, "has 3"));
    ck_assert(!model_cut(&m, 0, &error));
}
END_TEST

#define HEAD "{'name': 'x', 'source': 'y', 'layers': 2, 'format': 'bf16', 'element_bytes': 2"
#define GQA HEAD ", 'attention': 'gqa', 'kv_heads': 4, 'head_dim': 8"

START_TEST(every_field_is_checked)
{
    static const struct {
        const char *text;
        const char *reason;
    } cases[] = {
        {"[]", "not a JSON object"},
        {"{", "not JSON"},
        {"{}", "\"name\" is missing"},
        {"{'name': 5}", "\"name\" is not a text"},
        {"{'name': 'x', 'source': 'y', 'format': 'a format that is too long'}",
         "\"format\" is not a text of 1 .. 15 bytes"},
        {"{'name': 'x', 'source': 'y', 'format': 'bf16', 'layers': 0}",
         "\"layers\" is 0, not within 1 .. 4096"},
        {"{'name': 'x', 'source': 'y', 'format': 'bf16', 'layers': 2.5}",
         "\"layers\" is not a whole number"},
        {HEAD "}", "\"attention\" is missing"},
        {HEAD ", 'attention': 'mha'}", "\"attention\" is \"mha\""},
        {HEAD ", 'attention': 'gqa', 'head_dim': 8}", "\"kv_heads\" is missing"},
        {HEAD ", 'attention': 'gqa', 'kv_heads': -4, 'head_dim': 8}", "\"kv_heads\" is -4"},
        {HEAD ", 'attention': 'mla', 'latent_dim': 8}", "\"rope_dim\" is missing"},
        {GQA ", 'rope_dim': 8}", "\"rope_dim\" is not a field of attention \"gqa\""},
        {GQA ", 'kvheads': 8}", "\"kvheads\" is not a field"},
        {GQA ", 'layers': 3}", "not JSON"},
        {GQA ", 'window_pattern': [true]}", "without \"window_tokens\""},
        {GQA ", 'window_tokens': 8}", "\"window_pattern\" is not a list"},
        {GQA ", 'window_tokens': 8, 'window_pattern': []}", "\"window_pattern\" is not a list"},
        {GQA ", 'window_tokens': 8, 'window_pattern': [true, 1]}",
         "\"window_pattern\"[1] is neither"},
        {GQA ", 'window_tokens': 8, 'window_pattern': [true, true, true]}", "1 .. 2 values"},
    };

    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct tool_error error = {""};
        struct model m;

        ck_assert_msg(!load(cases[i].text, &error, &m), "%s", cases[i].text);
        ck_assert_msg(strstr(error.text, cases[i].reason), "%s: %s", cases[i].text, error.text);
    }
}
END_TEST

START_TEST(a_window_on_all_layers_is_one_group)
{
    struct tool_error error;
    struct model m;

    ck_assert_msg(load(GQA ", 'window_tokens': 8, 'window_pattern': [true]}", &error, &m), "%s",
                  error.text);
    ck_assert_uint_eq(m.n_groups, 1);
    ck_assert_uint_eq(m.group_window_tokens[0], 8);
    ck_assert_uint_eq(m.group_of_layer[1], 0);
    ck_assert_uint_eq(m.row_bytes, 16);
}
END_TEST

START_TEST(an_unknown_name_is_refused)
{
    struct tool_error error;
    struct model m;

    ck_assert(!model_load("llama-9-zillion", &error, &m));
    ck_assert_ptr_nonnull(strstr(error.text, "\"llama-9-zillion\" is unknown"));
    ck_assert(!model_load("./nowhere.json", &error, &m));
    ck_assert_ptr_nonnull(strstr(error.text, "nowhere.json"));
}
END_TEST

static void fill(TCase *tc)
{
    tcase_add_test(tc, shipped_models_have_their_published_sizes);
    tcase_add_test(tc, alternating_windows_are_two_groups);
    tcase_add_test(tc, a_cut_model_keeps_its_first_layers);
    tcase_add_test(tc, every_field_is_checked);
    tcase_add_test(tc, a_window_on_all_layers_is_one_group);
    tcase_add_test(tc, an_unknown_name_is_refused);
}

int main(void)
{
    return harness_main("model", fill, 20);
}
