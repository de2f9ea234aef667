/*
 * From C: one text, several at once, a call that is given up, an error.
 *
 *     cc classify.c -o classify $(pkg-config --cflags --libs nimbert)
 *     ./classify reviews.nimbert
 */
#include <nimbert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MANY = 20000 };

static void check(nimbert_code code) {
    if (code == NIMBERT_OK) return;
    fprintf(stderr, "classify: error: %s\n", nimbert_last_error());
    exit(EXIT_FAILURE);
}

static nimbert_input input(const char *text) { return (nimbert_input){.text = text, .length = strlen(text)}; }

static void print(nimbert_results *results) {
    const nimbert_prediction *prediction;
    for (size_t i = 0; (prediction = nimbert_results_get(results, i)) != NULL; i++) {
        printf("%s %.3f\n", prediction->label, prediction->score);
    }
    nimbert_results_free(results);
}

int main(int argc, char **argv) {
    nimbert_options options = NIMBERT_OPTIONS_INIT;
    options.threads = 2;
    nimbert_classifier *classifier;
    check(nimbert_open(argc > 1 ? argv[1] : "reviews.nimbert", &options, &classifier));

    nimbert_results *results;
    check(nimbert_classify(classifier, "I love this movie!", NULL, NULL, &results));
    print(results);

    const nimbert_input batch[] = {input("dull"), input("a delight from start to finish"), input("well, it ends")};
    check(nimbert_classify_batch(classifier, batch, sizeof batch / sizeof *batch, NULL, &results));
    print(results);

    /* Texts are copied, and the call goes on by itself. A callback, in place of the first NULL, would be told of its end. */
    static nimbert_input many[MANY];
    for (size_t i = 0; i < MANY; i++) many[i] = input("a long story that nobody waits for");
    nimbert_call *call;
    check(nimbert_submit(classifier, many, MANY, NULL, NULL, NULL, &call));
    check(nimbert_call_cancel(call));
    if (nimbert_call_wait(call, NIMBERT_FOREVER, &results) == NIMBERT_CANCELLED) puts("cancelled");
    nimbert_results_free(results);
    nimbert_call_free(call);

    nimbert_classifier *nowhere;
    if (nimbert_open("nowhere.nimbert", &options, &nowhere) == NIMBERT_IO) printf("io: %s\n", nimbert_last_error());

    nimbert_close(classifier);
    return EXIT_SUCCESS;
}
