/* Calls that nobody waits for. */
#include "check.h"

/* What a callback has seen. */
struct seen {
    nimbert_classifier *classifier;
    /* Set by the callback before `count`. */
    _Atomic(nimbert_code) code;
    atomic_int count;
};

static void see(nimbert_call *call, void *user_data) {
    struct seen *seen = user_data;
    nimbert_results *results;
    seen->code = nimbert_call_wait(call, 0, &results);
    CHECK((results != NULL) == (seen->code == NIMBERT_OK));
    nimbert_results_free(results);
    seen->count++;
}

/* Whether the callback came within a minute. */
static bool comes(struct seen *seen) {
    for (int i = 0; i < 60000 && seen->count == 0; i++) sleep_ms(1);
    return seen->count == 1;
}

static void answers_are_those_of_a_call_that_waits(void) {
    nimbert_classifier *classifier = open_bundle();
    const nimbert_input inputs[] = {input_of("a great film"), input_of("terrible")};
    nimbert_results *expected, *first, *second;
    CHECK_CODE(NIMBERT_OK, nimbert_classify_batch(classifier, inputs, 2, NULL, &expected));
    nimbert_call *call;
    CHECK_CODE(NIMBERT_OK, nimbert_submit(classifier, inputs, 2, NULL, NULL, NULL, &call));
    CHECK_CODE(NIMBERT_OK, nimbert_call_wait(call, NIMBERT_FOREVER, &first));
    /* It stays there. */
    CHECK_CODE(NIMBERT_OK, nimbert_call_wait(call, 0, &second));
    CHECK_CODE(NIMBERT_OK, nimbert_call_cancel(call));
    CHECK_CODE(NIMBERT_OK, nimbert_call_free(call));
    CHECK(first != second);
    CHECK_CODE(NIMBERT_OK, nimbert_results_free(first));
    for (size_t i = 0; i < 2; i++) {
        CHECK(is_same(nimbert_results_get(expected, i), nimbert_results_get(second, i)));
    }
    CHECK(nimbert_results_get(second, 2) == NULL);
    nimbert_results_free(second);
    nimbert_results_free(expected);
    nimbert_close(classifier);
}

static void can_be_polled_and_cancelled(void) {
    nimbert_classifier *classifier = open_bundle();
    nimbert_call *call;
    nimbert_results *results;
    CHECK_CODE(NIMBERT_OK, nimbert_submit(classifier, many_inputs, MANY, NULL, NULL, NULL, &call));
    CHECK_CODE(NIMBERT_NOT_READY, nimbert_call_wait(call, 0, &results));
    CHECK(results == NULL);
    CHECK_CODE(NIMBERT_NOT_READY, nimbert_call_wait(call, 5, &results));
    CHECK_CODE(NIMBERT_OK, nimbert_call_cancel(call));
    CHECK_CODE(NIMBERT_OK, nimbert_call_cancel(call));
    CHECK_CODE(NIMBERT_CANCELLED, nimbert_call_wait(call, 60000, &results));
    CHECK_CODE(NIMBERT_CANCELLED, nimbert_call_wait(call, 0, &results));
    CHECK_CODE(NIMBERT_OK, nimbert_call_free(call));

    nimbert_call_options options = NIMBERT_CALL_OPTIONS_INIT;
    options.timeout_ms = 1;
    CHECK_CODE(NIMBERT_OK, nimbert_submit(classifier, many_inputs, MANY, &options, NULL, NULL, &call));
    CHECK_CODE(NIMBERT_DEADLINE_PASSED, nimbert_call_wait(call, 60000, &results));
    CHECK_CODE(NIMBERT_OK, nimbert_call_free(call));
    nimbert_close(classifier);
}

static void what_is_wrong_is_refused_at_once(void) {
    nimbert_classifier *classifier = open_bundle();
    nimbert_call *call;
    struct seen seen = {0};
    const nimbert_input wrong = {"\xff", 1, NULL, 0};
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_submit(classifier, &wrong, 1, NULL, see, &seen, &call));
    CHECK(call == NULL);
    const nimbert_input right = input_of("great");
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_submit(classifier, &right, 1, NULL, see, &seen, NULL));
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_submit(classifier, NULL, 1, NULL, see, &seen, &call));
    nimbert_close(classifier);
    CHECK(seen.count == 0);
}

static void a_callback_comes_once(void) {
    nimbert_classifier *classifier = open_bundle();
    struct seen done = {0}, cancelled = {0};
    const nimbert_input input = input_of("great");
    nimbert_call *call;
    CHECK_CODE(NIMBERT_OK, nimbert_submit(classifier, &input, 1, NULL, see, &done, &call));
    CHECK(comes(&done) && done.code == NIMBERT_OK);
    CHECK_CODE(NIMBERT_OK, nimbert_call_free(call));
    CHECK_CODE(NIMBERT_OK, nimbert_submit(classifier, many_inputs, MANY, NULL, see, &cancelled, &call));
    CHECK_CODE(NIMBERT_OK, nimbert_call_cancel(call));
    CHECK(comes(&cancelled) && cancelled.code == NIMBERT_CANCELLED);
    CHECK_CODE(NIMBERT_OK, nimbert_call_free(call));
    nimbert_close(classifier);
    CHECK(done.count == 1 && cancelled.count == 1);
}

/* Calls what a callback may call; the second time only looks. */
static void call_everything(nimbert_call *call, void *user_data) {
    struct seen *seen = user_data;
    nimbert_results *results;
    CHECK_CODE(NIMBERT_OK, nimbert_call_wait(call, 0, &results));
    nimbert_results_free(results);
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_call_wait(call, 1, &results));
    CHECK_CODE(NIMBERT_OK, nimbert_classify(seen->classifier, "bad", NULL, NULL, &results));
    CHECK(nimbert_results_get(results, 0) != NULL);
    nimbert_results_free(results);
    CHECK(nimbert_label(seen->classifier, 0) != NULL);
    CHECK_CODE(NIMBERT_OK, nimbert_call_free(call));
    if (seen->count++ == 0) {
        const nimbert_input input = input_of("one more");
        nimbert_call *next;
        CHECK_CODE(NIMBERT_OK, nimbert_submit(seen->classifier, &input, 1, NULL, call_everything, seen, &next));
    }
}

static void a_callback_may_call_the_library(void) {
    struct seen seen = {.classifier = open_bundle()};
    const nimbert_input input = input_of("great");
    nimbert_call *call;
    CHECK_CODE(NIMBERT_OK, nimbert_submit(seen.classifier, &input, 1, NULL, call_everything, &seen, &call));
    for (int i = 0; i < 60000 && seen.count < 2; i++) sleep_ms(1);
    CHECK_CODE(NIMBERT_OK, nimbert_close(seen.classifier));
    CHECK(seen.count == 2);
    /* It was freed there. */
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_call_free(call));
}

static void closing_cancels_and_waits_for_callbacks(void) {
    enum { CALLS = 8 };
    nimbert_classifier *classifier = open_bundle();
    struct seen seen[CALLS] = {{0}};
    nimbert_call *calls[CALLS];
    for (int i = 0; i < CALLS; i++) {
        CHECK_CODE(NIMBERT_OK, nimbert_submit(classifier, many_inputs, MANY, NULL, see, &seen[i], &calls[i]));
    }
    CHECK_CODE(NIMBERT_OK, nimbert_close(classifier));
    for (int i = 0; i < CALLS; i++) CHECK(seen[i].count == 1 && seen[i].code == NIMBERT_CANCELLED);
    sleep_ms(50);
    nimbert_results *results;
    for (int i = 0; i < CALLS; i++) {
        CHECK(seen[i].count == 1);
        /* Calls stay without their classifier. */
        CHECK_CODE(NIMBERT_CANCELLED, nimbert_call_wait(calls[i], 0, &results));
        CHECK_CODE(NIMBERT_OK, nimbert_call_free(calls[i]));
    }
}

static void close_it(nimbert_call *call, void *user_data) {
    struct seen *seen = user_data;
    nimbert_call_free(call);
    CHECK_CODE(NIMBERT_OK, nimbert_close(seen->classifier));
    seen->count++;
}

/* Also two at once, each of which is closed by the other's callback. */
static void a_callback_may_close(void) {
    struct seen own = {.classifier = open_bundle()};
    const nimbert_input input = input_of("great");
    nimbert_call *call;
    CHECK_CODE(NIMBERT_OK, nimbert_submit(own.classifier, &input, 1, NULL, close_it, &own, &call));
    CHECK(comes(&own));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_close(own.classifier));

    struct seen closes_second = {0}, closes_first = {0};
    nimbert_classifier *first = closes_first.classifier = open_bundle();
    nimbert_classifier *second = closes_second.classifier = open_bundle();
    nimbert_code of_first = nimbert_submit(first, &input, 1, NULL, close_it, &closes_second, &call);
    nimbert_code of_second = nimbert_submit(second, &input, 1, NULL, close_it, &closes_first, &call);
    CHECK(of_first == NIMBERT_OK && comes(&closes_second));
    /* The first's callback may have closed it before. */
    if (of_second == NIMBERT_OK) {
        CHECK(comes(&closes_first));
    } else {
        CHECK(of_second == NIMBERT_INVALID_HANDLE);
        CHECK_CODE(NIMBERT_OK, nimbert_close(first));
    }
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_close(first));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_close(second));
}

void test_calls(void) {
    answers_are_those_of_a_call_that_waits();
    can_be_polled_and_cancelled();
    what_is_wrong_is_refused_at_once();
    a_callback_comes_once();
    a_callback_may_call_the_library();
    closing_cancels_and_waits_for_callbacks();
    a_callback_may_close();
}
