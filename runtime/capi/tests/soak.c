/*
 * soak FOLDER LIBRARY [SECONDS]: 8 threads classify 20,000 texts, twice at least and again for so long. The process's
 * memory after the first minute, or after the first round if it lasts no longer, must be what it is at the end: 3 % and
 * a megabyte more are allowed. Linux only.
 */
#define _POSIX_C_SOURCE 200809L

#include <nimbert.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { THREADS = 8, TEXTS = 20000, A_THREAD = TEXTS / THREADS, A_CALL = 10, WARM_UP_SECONDS = 60 };

static nimbert_classifier *classifier;

static void expect_ok(nimbert_code code) {
    if (code != NIMBERT_OK) {
        printf("%s\n", nimbert_last_error());
        exit(1);
    }
}

static double seconds(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

/* What the process has in memory, in bytes. */
static double resident_bytes(void) {
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (file == NULL || fscanf(file, "%*d %ld", &pages) != 1) {
        perror("/proc/self/statm");
        exit(1);
    }
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

/* Every third call has one text, every third is submitted. Lengths differ, by the same sequence in each round. */
static void *classify_part(void *number) {
    unsigned state = 12345u + (unsigned)*(int *)number;
    char texts[A_CALL][512];
    nimbert_input inputs[A_CALL];
    for (int done = 0; done < A_THREAD; done += A_CALL) {
        for (int i = 0; i < A_CALL; i++) {
            size_t words = 1 + (state = state * 1664525u + 1013904223u) / 65536 % 60;
            texts[i][0] = '\0';
            for (size_t word = 0; word < words; word++) strcat(texts[i], word % 7 == state % 7 ? "great " : "film ");
            inputs[i] = (nimbert_input){texts[i], strlen(texts[i]), NULL, 0};
        }
        nimbert_results *results;
        switch (done / A_CALL % 3) {
        case 0:
            for (int i = 0; i < A_CALL; i++) {
                expect_ok(nimbert_classify(classifier, texts[i], NULL, NULL, &results));
                nimbert_results_free(results);
            }
            break;
        case 1:
            expect_ok(nimbert_classify_batch(classifier, inputs, A_CALL, NULL, &results));
            nimbert_results_free(results);
            break;
        default: {
            nimbert_call *call;
            expect_ok(nimbert_submit(classifier, inputs, A_CALL, NULL, NULL, NULL, &call));
            expect_ok(nimbert_call_wait(call, NIMBERT_FOREVER, &results));
            nimbert_results_free(results);
            nimbert_call_free(call);
        }
        }
    }
    return NULL;
}

static void classify_round(void) {
    pthread_t threads[THREADS];
    int numbers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        numbers[i] = i;
        if (pthread_create(&threads[i], NULL, classify_part, &numbers[i]) != 0) exit(1);
    }
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
}

int main(int argc, char **argv) {
    if (argc < 3) {
        fprintf(stderr, "usage: soak FOLDER LIBRARY [SECONDS]\n");
        return 2;
    }
    double limit = argc > 3 ? atof(argv[3]) : 0;
    expect_ok(nimbert_set_library_path(argv[2]));
    expect_ok(nimbert_open(argv[1], NULL, &classifier));
    /* A run that lasts no longer has no such minute: its first round is the measure. */
    double warm_up = limit > WARM_UP_SECONDS ? WARM_UP_SECONDS : 0;
    double started = seconds(), warm = 0, now = 0;
    int rounds = 0;
    do {
        classify_round();
        now = resident_bytes();
        rounds++;
        printf("round %d, %.1f s: %.1f MB\n", rounds, seconds() - started, now / 1e6);
        fflush(stdout);
        if (rounds == 1 || seconds() - started < warm_up) warm = now;
    } while (rounds < 2 || seconds() - started < limit);
    expect_ok(nimbert_close(classifier));
    printf("%d texts: %.1f MB warm, %.1f MB at the end\n", rounds * TEXTS, warm / 1e6, now / 1e6);
    return now <= warm * 1.03 + 1e6 ? 0 : 1;
}
