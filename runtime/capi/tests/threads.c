/* Many threads at once, and calls in any order. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <pthread.h>
#include <stdint.h>

enum { THREADS = 8, TEXTS = 100 };

static nimbert_classifier *classifier;
static char texts[TEXTS][256];
static nimbert_results *expected;

/* Runs one function in several threads, each with its number. */
static void run_threads(void *(*run)(void *), int count) {
    pthread_t threads[THREADS];
    static int numbers[THREADS];
    for (int i = 0; i < count; i++) {
        numbers[i] = i;
        CHECK(pthread_create(&threads[i], NULL, run, &numbers[i]) == 0);
    }
    for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
}

static void *classify_all(void *number) {
    for (int i = 0; i < TEXTS; i++) {
        /* Each in another order. */
        int index = (i + *(int *)number * TEXTS / THREADS) % TEXTS;
        nimbert_results *results;
        CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, texts[index], NULL, NULL, &results));
        CHECK(is_same(nimbert_results_get(results, 0), nimbert_results_get(expected, (size_t)index)));
        CHECK_CODE(NIMBERT_OK, nimbert_results_free(results));
    }
    return NULL;
}

static void threads_get_the_answers_of_their_texts(void) {
    unsigned seed = 11;
    nimbert_input inputs[TEXTS];
    for (int i = 0; i < TEXTS; i++) {
        write_text(&seed, texts[i], sizeof texts[i]);
        inputs[i] = input_of(texts[i]);
    }
    classifier = open_bundle();
    CHECK_CODE(NIMBERT_OK, nimbert_classify_batch(classifier, inputs, TEXTS, NULL, &expected));
    run_threads(classify_all, THREADS);
    nimbert_results_free(expected);
    nimbert_close(classifier);
}

/* How many threads have come so far. */
static atomic_int answered;

/* Thread 0 closes it once all others use it; they do so until it is closed. */
static void *use_or_close(void *number) {
    if (*(int *)number == 0) {
        for (int i = 0; i < 60000 && answered < THREADS - 1; i++) sleep_ms(1);
        CHECK(answered == THREADS - 1);
        CHECK_CODE(NIMBERT_OK, nimbert_close(classifier));
        return NULL;
    }
    for (bool is_first = true;; is_first = false) {
        nimbert_results *results;
        nimbert_code code = nimbert_classify(classifier, "great", NULL, NULL, &results);
        nimbert_results_free(results);
        if (code != NIMBERT_OK) {
            CHECK(code == NIMBERT_INVALID_HANDLE);
            return NULL;
        }
        if (is_first) answered++;
    }
}

static void closing_while_others_classify_is_safe(void) {
    classifier = open_bundle();
    run_threads(use_or_close, THREADS);
}

static atomic_int callbacks;

static void count_callback(nimbert_call *call, void *unused) {
    (void)unused;
    CHECK_CODE(NIMBERT_OK, nimbert_call_free(call));
    callbacks++;
}

/* For a second, unless it is done before. */
static void *classify_many(void *unused) {
    (void)unused;
    nimbert_call_options options = NIMBERT_CALL_OPTIONS_INIT;
    options.timeout_ms = 1000;
    nimbert_results *results;
    answered++;
    nimbert_code code = nimbert_classify_batch(classifier, many_inputs, MANY, &options, &results);
    CHECK(code == NIMBERT_OK || code == NIMBERT_DEADLINE_PASSED);
    nimbert_results_free(results);
    return NULL;
}

static void closing_waits_for_callbacks_whoever_else_classifies(void) {
    classifier = open_bundle();
    answered = 0;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, classify_many, NULL) == 0);
    while (answered == 0) sleep_ms(1);
    sleep_ms(20);
    nimbert_call *call;
    CHECK_CODE(NIMBERT_OK, nimbert_submit(classifier, many_inputs, MANY, NULL, count_callback, NULL, &call));
    CHECK_CODE(NIMBERT_OK, nimbert_close(classifier));
    CHECK(callbacks == 1);
    pthread_join(thread, NULL);
}

static void *fail_otherwise(void *number) {
    (void)number;
    nimbert_classifier *none;
    CHECK(nimbert_last_error()[0] == '\0');
    CHECK_CODE(NIMBERT_IO, nimbert_open("/nowhere/theirs", NULL, &none));
    CHECK_MESSAGE("/nowhere/theirs");
    return NULL;
}

static void errors_are_kept_by_thread(void) {
    nimbert_classifier *none;
    CHECK_CODE(NIMBERT_IO, nimbert_open("/nowhere/ours", NULL, &none));
    run_threads(fail_otherwise, 2);
    CHECK_MESSAGE("/nowhere/ours");
    CHECK_CODE(NIMBERT_OK, nimbert_close(NULL));
    CHECK(nimbert_last_error()[0] == '\0');
}

/* A handle as the test knows it. */
struct known {
    void *handle;
    enum { CLASSIFIER, CALL, RESULTS, NONE } kind;
    bool is_open;
};

static nimbert_code expected_code(struct known *known, int kind, bool closes) {
    if (known->handle == NULL) return closes ? NIMBERT_OK : NIMBERT_INVALID_HANDLE;
    bool fits = known->is_open && (int)known->kind == kind;
    if (fits && closes) known->is_open = false;
    return fits ? NIMBERT_OK : NIMBERT_INVALID_HANDLE;
}

static nimbert_code release(const struct known *known, int kind) {
    switch (kind) {
    case CLASSIFIER: return nimbert_close(known->handle);
    case CALL: return nimbert_call_free(known->handle);
    default: return nimbert_results_free(known->handle);
    }
}

/* Gives any function any handle: open, closed, of another kind, NULL, or none. What each must answer is known. */
static void *call_at_random(void *number) {
    /* Handles that are none come first, then classifiers, then calls and results. */
    enum { NONES = 3, CLASSIFIERS = 6, HANDLES = 16, STEPS = 3000 };
    static struct known all[THREADS][HANDLES];
    struct known *known = all[*(int *)number];
    known[0] = (struct known){NULL, NONE, false};
    known[1] = (struct known){(void *)(UINTPTR_MAX / 2 + 1), NONE, false};
    known[2] = (struct known){&known, NONE, false};
    for (int i = NONES; i < HANDLES; i++) known[i] = known[0];
    int classified = 0;
    unsigned seed = 1000u + (unsigned)*(int *)number;
    const nimbert_input inputs[] = {input_of("great"), input_of("worse than boredom")};
    for (int step = 0; step < STEPS; step++) {
        struct known *used = &known[next_random(&seed) % HANDLES];
        int operation = (int)(next_random(&seed) % 16);
        /* Seldom: opening takes longer than all else. */
        if (operation == 0 && next_random(&seed) % 8 != 0) operation = 1;
        /* Where a new handle goes; what was there is closed first, so that there are not too many. */
        unsigned first = operation == 0 ? NONES : CLASSIFIERS, end = operation == 0 ? CLASSIFIERS : HANDLES;
        struct known *place = &known[first + next_random(&seed) % (end - first)];
        if (operation < 9 && place->is_open) {
            CHECK_CODE(NIMBERT_OK, release(place, (int)place->kind));
            place->is_open = false;
            if (place == used) continue;
        }
        void *made = NULL;
        nimbert_code code = NIMBERT_OK;
        switch (operation) {
        case 0:
            made = open_bundle();
            *place = (struct known){made, CLASSIFIER, true};
            break;
        case 1:
        case 2:
        case 3:
        case 4:
            code = expected_code(used, CLASSIFIER, false);
            CHECK_CODE(code, nimbert_classify_batch(used->handle, inputs, 2, NULL, (nimbert_results **)&made));
            if (made != NULL) *place = (struct known){made, RESULTS, true};
            classified += code == NIMBERT_OK;
            break;
        case 5:
        case 6:
            code = expected_code(used, CLASSIFIER, false);
            CHECK_CODE(code, nimbert_submit(used->handle, inputs, 2, NULL, NULL, NULL, (nimbert_call **)&made));
            if (made != NULL) *place = (struct known){made, CALL, true};
            break;
        case 7:
        case 8: {
            bool is_call = expected_code(used, CALL, false) == NIMBERT_OK;
            code = nimbert_call_wait(used->handle, next_random(&seed) % 3, (nimbert_results **)&made);
            /* It may be done or not, or cancelled by its classifier's end. */
            CHECK(is_call == (code != NIMBERT_INVALID_HANDLE));
            CHECK(!is_call || code == NIMBERT_OK || code == NIMBERT_NOT_READY || code == NIMBERT_CANCELLED);
            if (made != NULL) *place = (struct known){made, RESULTS, true};
            break;
        }
        case 9: CHECK_CODE(expected_code(used, CALL, false), nimbert_call_cancel(used->handle)); break;
        case 10:
            code = expected_code(used, RESULTS, false);
            CHECK((nimbert_results_get(used->handle, (size_t)step % 2) != NULL) == (code == NIMBERT_OK));
            break;
        case 11:
            code = expected_code(used, CLASSIFIER, false);
            CHECK((nimbert_label(used->handle, 0) != NULL) == (code == NIMBERT_OK));
            break;
        default: {
            int kind = (int)(next_random(&seed) % 3);
            CHECK_CODE(expected_code(used, kind, true), release(used, kind));
        }
        }
    }
    /* Otherwise it would have shown little. */
    CHECK(classified > 20);
    for (int i = 0; i < HANDLES; i++) {
        if (known[i].is_open) CHECK_CODE(NIMBERT_OK, release(&known[i], (int)known[i].kind));
    }
    return NULL;
}

static void calls_in_any_order_are_answered_as_they_must(void) { run_threads(call_at_random, 4); }

void test_threads(void) {
    threads_get_the_answers_of_their_texts();
    closing_while_others_classify_is_safe();
    closing_waits_for_callbacks_whoever_else_classifies();
    errors_are_kept_by_thread();
    calls_in_any_order_are_answered_as_they_must();
}
