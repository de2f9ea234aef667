/* Versions, opening, options, closing. */
#include "check.h"

#include <stdint.h>
#include <stdlib.h>

static void versions_are_the_headers(void) {
    char version[32];
    snprintf(version, sizeof version, "%d.%d.%d", NIMBERT_VERSION_MAJOR, NIMBERT_VERSION_MINOR, NIMBERT_VERSION_PATCH);
    CHECK(strcmp(version, NIMBERT_VERSION) == 0);
    CHECK(strcmp(version, nimbert_version()) == 0);
}

static void opens_a_folder_a_file_and_memory(void) {
    size_t size;
    char *bytes = read_file(given.file, &size);
    nimbert_classifier *classifiers[3];
    nimbert_results *results[3];
    CHECK_CODE(NIMBERT_OK, nimbert_open(given.folder, NULL, &classifiers[0]));
    CHECK_CODE(NIMBERT_OK, nimbert_open(given.file, NULL, &classifiers[1]));
    CHECK_CODE(NIMBERT_OK, nimbert_open_memory(bytes, size, NULL, &classifiers[2]));
    for (int i = 0; i < 3; i++) {
        const char *text = "the best film of the year";
        CHECK_CODE(NIMBERT_OK, nimbert_classify(classifiers[i], text, NULL, NULL, &results[i]));
        CHECK(is_same(nimbert_results_get(results[0], 0), nimbert_results_get(results[i], 0)));
    }
    for (int i = 0; i < 3; i++) {
        CHECK_CODE(NIMBERT_OK, nimbert_close(classifiers[i]));
        CHECK_CODE(NIMBERT_OK, nimbert_results_free(results[i]));
    }
    /* As the header says: it is closed, and nobody uses it. */
    free(bytes);
}

static void names_all_labels(void) {
    nimbert_classifier *classifier = open_bundle();
    nimbert_results *results;
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "bad", NULL, NULL, &results));
    const nimbert_prediction *prediction = nimbert_results_get(results, 0);
    size_t count = 0;
    for (const char *label; (label = nimbert_label(classifier, count)) != NULL; count++) {
        CHECK(label[0] != '\0');
        if (count == prediction->label_id) CHECK(strcmp(label, prediction->label) == 0);
    }
    CHECK(count == prediction->label_count);
    nimbert_results_free(results);
    nimbert_close(classifier);
}

static void says_what_is_wrong(void) {
    /* Not NULL before: it must be set. */
    nimbert_classifier *classifier = (nimbert_classifier *)&classifier;
    CHECK_CODE(NIMBERT_IO, nimbert_open("/nowhere/reviews.nimbert", NULL, &classifier));
    CHECK(classifier == NULL);
    CHECK_MESSAGE("/nowhere/reviews.nimbert");
    CHECK_CODE(NIMBERT_FORMAT, nimbert_open_memory("no bundle at all", 16, NULL, &classifier));
    CHECK_CODE(NIMBERT_FORMAT, nimbert_open_memory(NULL, 0, NULL, &classifier));
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_open_memory(NULL, 16, NULL, &classifier));
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_open(NULL, NULL, &classifier));
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_open(given.folder, NULL, NULL));
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_open("/nowhere/\xe4.nimbert", NULL, &classifier));
    CHECK_MESSAGE("0xe4 at 9");
    CHECK(classifier == NULL);
}

static void refuses_settings(void) {
    static const struct {
        nimbert_setting setting;
        nimbert_code code;
        const char *message;
    } cases[] = {
        {{"no_setting", "1"}, NIMBERT_SETTING, "no_setting"},
        {{"batch_size", "many"}, NIMBERT_SETTING, "many"},
        {{"device", "toaster"}, NIMBERT_SETTING, "toaster"},
        {{"", ""}, NIMBERT_SETTING, ""},
        {{NULL, "1"}, NIMBERT_INVALID_ARGUMENT, "NULL"},
        {{"threads", NULL}, NIMBERT_INVALID_ARGUMENT, "NULL"},
        {{"variant", "\xc3("}, NIMBERT_INVALID_ARGUMENT, "0xc3 at 0"},
    };
    nimbert_classifier *classifier;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        nimbert_options options = NIMBERT_OPTIONS_INIT;
        options.settings = &cases[i].setting;
        options.setting_count = 1;
        CHECK_CODE(cases[i].code, nimbert_open(given.folder, &options, &classifier));
        CHECK_MESSAGE(cases[i].message);
        CHECK(classifier == NULL);
    }
    nimbert_options options = NIMBERT_OPTIONS_INIT;
    options.setting_count = 1;
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_open(given.folder, &options, &classifier));
    options = (nimbert_options)NIMBERT_OPTIONS_INIT;
    options.device = "toaster";
    CHECK_CODE(NIMBERT_SETTING, nimbert_open(given.folder, &options, &classifier));
    options = (nimbert_options)NIMBERT_OPTIONS_INIT;
    options.threads = 1000000;
    CHECK_CODE(NIMBERT_SETTING, nimbert_open(given.folder, &options, &classifier));
}

static void takes_settings(void) {
    static const nimbert_setting settings[] = {{"parallelism", "latency"}, {"max_wait_ms", "0"}, {"verify", "always"}};
    nimbert_options options = NIMBERT_OPTIONS_INIT;
    options.device = "cpu";
    options.threads = 1;
    options.settings = settings;
    options.setting_count = sizeof settings / sizeof *settings;
    nimbert_classifier *classifier;
    CHECK_CODE(NIMBERT_OK, nimbert_open(given.folder, &options, &classifier));
    CHECK_CODE(NIMBERT_OK, nimbert_close(classifier));
}

/* Programs that were compiled with the header of another version. */
static void structs_may_be_larger_or_smaller(void) {
    struct {
        nimbert_options options;
        size_t unknown[4];
    } newer = {NIMBERT_OPTIONS_INIT, {0}};
    newer.options.size = sizeof newer;
    nimbert_classifier *classifier;
    CHECK_CODE(NIMBERT_OK, nimbert_open(given.folder, &newer.options, &classifier));
    CHECK_CODE(NIMBERT_OK, nimbert_close(classifier));
    newer.unknown[3] = 1;
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_open(given.folder, &newer.options, &classifier));

    /* It ends before `cache`: what lies there is not read. */
    nimbert_options older = NIMBERT_OPTIONS_INIT;
    older.size = offsetof(nimbert_options, cache);
    older.cache = (const char *)1;
    older.settings = (const nimbert_setting *)1;
    older.setting_count = 1;
    CHECK_CODE(NIMBERT_OK, nimbert_open(given.folder, &older, &classifier));
    /* But what it has is. */
    older.device = "toaster";
    nimbert_classifier *none;
    CHECK_CODE(NIMBERT_SETTING, nimbert_open(given.folder, &older, &none));

    static const size_t wrong_sizes[] = {0, 1, sizeof(size_t) - 1, 4097, SIZE_MAX};
    nimbert_results *results;
    for (size_t i = 0; i < sizeof wrong_sizes / sizeof *wrong_sizes; i++) {
        nimbert_options options = NIMBERT_OPTIONS_INIT;
        nimbert_call_options call_options = NIMBERT_CALL_OPTIONS_INIT;
        options.size = call_options.size = wrong_sizes[i];
        CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_open(given.folder, &options, &none));
        CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_classify(classifier, "a", NULL, &call_options, &results));
    }
    CHECK_CODE(NIMBERT_OK, nimbert_close(classifier));
}

static void refuses_handles(void) {
    nimbert_classifier *classifier = open_bundle();
    nimbert_results *results;
    nimbert_call *call;
    nimbert_input input = input_of("great");
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "great", NULL, NULL, &results));
    CHECK_CODE(NIMBERT_OK, nimbert_submit(classifier, &input, 1, NULL, NULL, NULL, &call));
    nimbert_results *other;

    /* Of another kind. */
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_close((nimbert_classifier *)results));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_close((nimbert_classifier *)call));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_results_free((nimbert_results *)classifier));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_call_free((nimbert_call *)results));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_call_wait((nimbert_call *)classifier, 0, &other));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_call_cancel((nimbert_call *)classifier));
    CHECK(nimbert_results_get((nimbert_results *)classifier, 0) == NULL);
    CHECK(nimbert_label((nimbert_classifier *)results, 0) == NULL);
    /* Never one. */
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_close((nimbert_classifier *)&classifier));

    CHECK_CODE(NIMBERT_OK, nimbert_close(classifier));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_close(classifier));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_classify(classifier, "great", NULL, NULL, &other));
    CHECK(other == NULL);
    nimbert_call *no_call;
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_submit(classifier, &input, 1, NULL, NULL, NULL, &no_call));
    CHECK(no_call == NULL);
    CHECK(nimbert_label(classifier, 0) == NULL);

    /* Results stay without their classifier. */
    CHECK(nimbert_results_get(results, 0)->label[0] != '\0');
    CHECK(nimbert_results_get(results, 1) == NULL);
    CHECK_CODE(NIMBERT_OK, nimbert_results_free(results));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_results_free(results));
    CHECK(nimbert_results_get(results, 0) == NULL);
    CHECK_CODE(NIMBERT_OK, nimbert_call_free(call));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_call_free(call));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_call_wait(call, 0, &other));

    CHECK_CODE(NIMBERT_OK, nimbert_close(NULL));
    CHECK_CODE(NIMBERT_OK, nimbert_call_free(NULL));
    CHECK_CODE(NIMBERT_OK, nimbert_results_free(NULL));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_classify(NULL, "great", NULL, NULL, &other));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_call_cancel(NULL));
}

void test_open(void) {
    versions_are_the_headers();
    opens_a_folder_a_file_and_memory();
    names_all_labels();
    says_what_is_wrong();
    refuses_settings();
    takes_settings();
    structs_may_be_larger_or_smaller();
    refuses_handles();
}
