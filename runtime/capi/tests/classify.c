/* What a classifier answers, and what it refuses. */
#include "check.h"

#include <math.h>
#include <stdint.h>
#include <stdlib.h>

static nimbert_classifier *classifier;

static void answers_agree_with_themselves(void) {
    nimbert_results *results;
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "a masterpiece", NULL, NULL, &results));
    const nimbert_prediction *prediction = nimbert_results_get(results, 0);
    size_t count = prediction->label_count;
    CHECK(count > 0);
    CHECK(prediction->label_length == strlen(prediction->label));
    CHECK(prediction->score == prediction->scores[prediction->label_id]);
    CHECK(prediction->ranking[0] == prediction->label_id);
    CHECK(prediction->score > 0 && prediction->score <= 1);
    size_t sum_of_ids = 0;
    for (size_t rank = 0; rank < count; rank++) {
        size_t id = prediction->ranking[rank];
        CHECK(id < count);
        CHECK(isfinite(prediction->logits[id]));
        sum_of_ids += id;
        if (rank == 0) continue;
        /* The order of scores is that of logits, whatever the temperature. */
        CHECK(prediction->scores[id] <= prediction->scores[prediction->ranking[rank - 1]]);
        CHECK(prediction->logits[id] <= prediction->logits[prediction->ranking[rank - 1]]);
    }
    CHECK(sum_of_ids == count * (count - 1) / 2);
    CHECK(prediction->held_count <= count);
    for (size_t i = 0; i < prediction->held_count; i++) {
        CHECK(prediction->held[i] < count);
        if (i > 0) CHECK(prediction->held[i - 1] < prediction->held[i]);
    }
    CHECK_CODE(NIMBERT_OK, nimbert_results_free(results));
}

/* e^x as (1 + x / n)^n for a large n: without the mathematical library. */
static double exponential(double x) {
    double power = 1 + x / (1 << 30);
    for (int i = 0; i < 30; i++) power *= power;
    return power;
}

/* Softmax of the logits, or a sigmoid of each: what scores are where a bundle's temperature is 1. */
static void scores_follow_from_logits(void) {
    nimbert_results *results;
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "terrible acting", NULL, NULL, &results));
    const nimbert_prediction *prediction = nimbert_results_get(results, 0);
    double exponentials = 0, scores = 0;
    for (size_t id = 0; id < prediction->label_count; id++) {
        exponentials += exponential((double)prediction->logits[id]);
        scores += (double)prediction->scores[id];
    }
    bool is_softmax = scores > 1 - 1e-5 && scores < 1 + 1e-5;
    for (size_t id = 0; id < prediction->label_count; id++) {
        double power = exponential((double)prediction->logits[id]);
        double difference = power / (is_softmax ? exponentials : 1 + power) - (double)prediction->scores[id];
        CHECK(difference > -1e-5 && difference < 1e-5);
    }
    CHECK_CODE(NIMBERT_OK, nimbert_results_free(results));
}

static void a_batch_answers_what_single_texts_answer(void) {
    enum { COUNT = 1000 };
    static char texts[COUNT][256];
    static nimbert_input inputs[COUNT];
    unsigned seed = 7;
    for (size_t i = 0; i < COUNT; i++) {
        write_text(&seed, texts[i], sizeof texts[i]);
        inputs[i] = input_of(texts[i]);
    }
    nimbert_results *batch;
    CHECK_CODE(NIMBERT_OK, nimbert_classify_batch(classifier, inputs, COUNT, NULL, &batch));
    size_t different = 0;
    for (size_t i = 0; i < COUNT; i++) {
        nimbert_results *single;
        CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, texts[i], NULL, NULL, &single));
        CHECK(is_same(nimbert_results_get(batch, i), nimbert_results_get(single, 0)));
        different += !is_same(nimbert_results_get(batch, 0), nimbert_results_get(single, 0));
        nimbert_results_free(single);
    }
    /* Otherwise it would have shown nothing. */
    CHECK(different > COUNT / 2);
    CHECK(nimbert_results_get(batch, COUNT - 1) != NULL);
    CHECK(nimbert_results_get(batch, COUNT) == NULL);
    CHECK_MESSAGE("1000");
    CHECK(nimbert_results_get(batch, SIZE_MAX) == NULL);
    nimbert_results_free(batch);
}

static void words_explain_an_answer(void) {
    static const char text[] = "na\xc3\xafve , a great plot";
    const nimbert_input input = input_of(text), empty = {NULL, 0, NULL, 0};
    nimbert_explain_options of = NIMBERT_EXPLAIN_OPTIONS_INIT;
    nimbert_results *results, *whole;
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, text, NULL, NULL, &whole));
    const nimbert_prediction *expected = nimbert_results_get(whole, 0);
    CHECK(nimbert_results_explanation(whole) == NULL);
    CHECK_MESSAGE("nimbert_explain");
    for (size_t label = 0; label <= expected->label_count; label++) {
        /* Each label, then the one that the text gets. */
        of.label = nimbert_label(classifier, label);
        CHECK_CODE(NIMBERT_OK, nimbert_explain(classifier, &input, &of, NULL, &results));
        CHECK(is_same(nimbert_results_get(results, 0), expected));
        CHECK(nimbert_results_get(results, 1) == NULL);
        const nimbert_explanation *explanation = nimbert_results_explanation(results);
        CHECK(explanation->label_id == (of.label == NULL ? expected->label_id : label));
        CHECK(strcmp(explanation->attribution, "shapley") == 0);
        CHECK(explanation->word_count == 5 && explanation->unread_count == 0);
        const nimbert_word *words = explanation->words;
        CHECK(words[0].start == 0 && words[0].end == 6 && words[1].start == 7 && words[4].end == strlen(text));
        double sum = explanation->value - explanation->base_value;
        for (size_t i = 0; i < explanation->word_count; i++) {
            CHECK(!words[i].is_of_pair);
            sum -= words[i].attribution;
        }
        CHECK(sum > -1e-4 && sum < 1e-4);
        nimbert_results_free(results);
    }
    of.attribution = "leave-one-out";
    CHECK_CODE(NIMBERT_OK, nimbert_explain(classifier, &empty, &of, NULL, &results));
    CHECK(nimbert_results_explanation(results)->word_count == 0);
    CHECK(strcmp(nimbert_results_explanation(results)->attribution, "leave-one-out") == 0);
    nimbert_results_free(results);
    CHECK(nimbert_results_explanation(results) == NULL);
    of.attribution = "gradient";
    CHECK_CODE(NIMBERT_SETTING, nimbert_explain(classifier, &input, &of, NULL, &results));
    CHECK_MESSAGE("gradient");
    CHECK(results == NULL);
    of.attribution = NULL;
    of.label = "no such label";
    CHECK_CODE(NIMBERT_SETTING, nimbert_explain(classifier, &input, &of, NULL, &results));
    CHECK_MESSAGE("no such label");
    of.label = NULL;
    of.task = "no such task";
    CHECK_CODE(NIMBERT_SETTING, nimbert_explain(classifier, &input, &of, NULL, &results));
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_explain(classifier, NULL, NULL, NULL, &results));
    static char long_text[2000];
    for (size_t i = 0; i + 5 < sizeof long_text; i += 5) memcpy(long_text + i, "film ", 5);
    const nimbert_input many_words = input_of(long_text);
    of = (nimbert_explain_options)NIMBERT_EXPLAIN_OPTIONS_INIT;
    of.attribution = "shapley";
    nimbert_call_options hasty = NIMBERT_CALL_OPTIONS_INIT;
    hasty.timeout_ms = 1;
    CHECK_CODE(NIMBERT_DEADLINE_PASSED, nimbert_explain(classifier, &many_words, &of, &hasty, &results));
    CHECK(results == NULL);
    nimbert_results_free(whole);
}

static void nothing_has_no_answers(void) {
    nimbert_results *results;
    CHECK_CODE(NIMBERT_OK, nimbert_classify_batch(classifier, NULL, 0, NULL, &results));
    CHECK(results != NULL);
    CHECK(nimbert_results_get(results, 0) == NULL);
    CHECK_CODE(NIMBERT_OK, nimbert_results_free(results));
}

static void texts_end_where_they_end(void) {
    /* Followed by what would change the answer, and by nothing that a sanitizer allows to be read. */
    char *bytes = malloc(4);
    memcpy(bytes, "love", 4);
    const nimbert_input inputs[] = {
        {bytes, 4, NULL, 0},
        {"lovebad", 4, NULL, 0},
        {"love\0bad", 8, NULL, 0},
        {NULL, 0, NULL, 0},
    };
    nimbert_results *results, *whole, *empty;
    CHECK_CODE(NIMBERT_OK, nimbert_classify_batch(classifier, inputs, 4, NULL, &results));
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "love", NULL, NULL, &whole));
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "", NULL, NULL, &empty));
    CHECK(is_same(nimbert_results_get(results, 0), nimbert_results_get(whole, 0)));
    CHECK(is_same(nimbert_results_get(results, 1), nimbert_results_get(whole, 0)));
    CHECK(nimbert_results_get(results, 2) != NULL);
    CHECK(is_same(nimbert_results_get(results, 3), nimbert_results_get(empty, 0)));
    nimbert_results_free(results);
    nimbert_results_free(whole);
    nimbert_results_free(empty);
    free(bytes);
}

static void refuses_what_is_no_text(void) {
    nimbert_results *results;
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_classify(classifier, NULL, NULL, NULL, &results));
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_classify(classifier, "a\xff", NULL, NULL, &results));
    CHECK_MESSAGE("0xff at 1");
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_classify(classifier, "a", "\xc0\xaf", NULL, &results));
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_classify(classifier, "a", NULL, NULL, NULL));
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_classify_batch(classifier, NULL, 1, NULL, &results));
    const nimbert_input wrong[] = {
        {"a\xe5\xa5\xbd", 3, NULL, 0},   /* cut within a character */
        {"\xed\xa0\x80", 3, NULL, 0},    /* a surrogate */
        {NULL, 3, NULL, 0},              /* NULL, but a length */
        {"a", SIZE_MAX, NULL, 0},        /* as a failed function may return it */
        {"a", 1, "a\x80", 2},            /* in the second text */
    };
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        const nimbert_input inputs[] = {input_of("a"), wrong[i]};
        CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_classify_batch(classifier, inputs, 2, NULL, &results));
        CHECK_MESSAGE("inputs[1]");
        CHECK(results == NULL);
    }
}

/* What the bundle says of itself decides. */
static void pairs_are_read_where_they_are_expected(void) {
    char path[4096];
    snprintf(path, sizeof path, "%s/nimbert.json", given.folder);
    size_t size;
    char *manifest = read_file(path, &size);
    bool only_single = strstr(manifest, "\"pairs\": false") != NULL;
    bool only_pairs = strstr(manifest, "\"pairs\": true") != NULL;
    free(manifest);
    nimbert_results *results;
    CHECK_CODE(only_single ? NIMBERT_INPUT : NIMBERT_OK, nimbert_classify(classifier, "best?", "yes", NULL, &results));
    nimbert_results_free(results);
    CHECK_CODE(only_pairs ? NIMBERT_INPUT : NIMBERT_OK, nimbert_classify(classifier, "best", NULL, NULL, &results));
    nimbert_results_free(results);
    /* An empty second text is one. */
    const nimbert_input input = {"best?", 5, "", 0};
    CHECK_CODE(only_single ? NIMBERT_INPUT : NIMBERT_OK, nimbert_classify_batch(classifier, &input, 1, NULL, &results));
    nimbert_results_free(results);
}

static void long_texts_are_cut_or_refused(void) {
    static char text[20000];
    for (size_t i = 0; i + 5 < sizeof text; i += 5) memcpy(text + i, "film ", 5);
    nimbert_call_options options = NIMBERT_CALL_OPTIONS_INIT;
    static const char *const truncations[] = {NULL, "bundle", "left", "right"};
    nimbert_results *results;
    for (size_t i = 0; i < sizeof truncations / sizeof *truncations; i++) {
        options.truncation = truncations[i];
        CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, text, NULL, &options, &results));
        nimbert_results_free(results);
    }
    options.truncation = "refuse";
    CHECK_CODE(NIMBERT_TOO_LONG, nimbert_classify(classifier, text, NULL, &options, &results));
    options.truncation = "middle";
    CHECK_CODE(NIMBERT_SETTING, nimbert_classify(classifier, text, NULL, &options, &results));
    CHECK_MESSAGE("middle");
}

static void a_deadline_passes(void) {
    nimbert_call_options options = NIMBERT_CALL_OPTIONS_INIT;
    options.timeout_ms = 1;
    nimbert_results *results;
    CHECK_CODE(NIMBERT_DEADLINE_PASSED, nimbert_classify_batch(classifier, many_inputs, MANY, &options, &results));
    CHECK(results == NULL);
    options.timeout_ms = UINT64_MAX;
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "great", NULL, &options, &results));
    nimbert_results_free(results);
}

void test_classify(void) {
    classifier = open_bundle();
    answers_agree_with_themselves();
    words_explain_an_answer();
    scores_follow_from_logits();
    a_batch_answers_what_single_texts_answer();
    nothing_has_no_answers();
    texts_end_where_they_end();
    refuses_what_is_no_text();
    pairs_are_read_where_they_are_expected();
    long_texts_are_cut_or_refused();
    a_deadline_passes();
    CHECK_CODE(NIMBERT_OK, nimbert_close(classifier));
}
