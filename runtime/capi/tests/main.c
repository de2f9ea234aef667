/*
 * Tests of the C library: main FOLDER FILE LIBRARY, a bundle as a folder and as a .nimbert file, and ONNX Runtime's
 * library. Exit status 1 and a line for each check that failed.
 */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <stdlib.h>
#include <time.h>

extern char **environ;

struct given given;
atomic_int checks;
atomic_int failures;

nimbert_classifier *open_bundle(void) {
    nimbert_options options = NIMBERT_OPTIONS_INIT;
    options.threads = 2;
    nimbert_classifier *classifier;
    if (nimbert_open(given.folder, &options, &classifier) != NIMBERT_OK) {
        printf("%s\n", nimbert_last_error());
        exit(1);
    }
    return classifier;
}

char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (file == NULL || fseek(file, 0, SEEK_END) != 0) {
        perror(path);
        exit(1);
    }
    *size = (size_t)ftell(file);
    rewind(file);
    char *bytes = malloc(*size + 1);
    if (bytes == NULL || fread(bytes, 1, *size, file) != *size) {
        perror(path);
        exit(1);
    }
    bytes[*size] = '\0';
    fclose(file);
    return bytes;
}

nimbert_input input_of(const char *text) {
    nimbert_input input = {text, strlen(text), NULL, 0};
    return input;
}

/* xorshift32 */
unsigned next_random(unsigned *seed) {
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

void write_text(unsigned *seed, char *text, size_t size) {
    static const char *const words[] = {
        "this", "film",  "movie", "was",     "is",          "terrible", "great", "better", "worse", "love",
        "bad",  "bored", "plot",  "boredom", "masterpiece", "naive",    "best",  "acting", "the",   "a",
    };
    size_t used = 0;
    for (unsigned count = 1 + next_random(seed) % 20; count > 0; count--) {
        const char *word = words[next_random(seed) % (sizeof words / sizeof *words)];
        int written = snprintf(text + used, size - used, used == 0 ? "%s" : " %s", word);
        if (written < 0 || (size_t)written >= size - used) break;
        used += (size_t)written;
    }
}

void sleep_ms(long milliseconds) {
    struct timespec time = {milliseconds / 1000, milliseconds % 1000 * 1000000};
    nanosleep(&time, NULL);
}

bool is_same(const nimbert_prediction *one, const nimbert_prediction *other) {
    if (one == NULL || other == NULL || one->label_count != other->label_count) return false;
    for (size_t id = 0; id < one->label_count; id++) {
        float difference = one->scores[id] - other->scores[id];
        if (difference > 1e-4f || difference < -1e-4f) return false;
    }
    return one->label_id == other->label_id && strcmp(one->label, other->label) == 0;
}

nimbert_input many_inputs[MANY];

/* The environment's variables, and how many there are. */
static size_t copy_environment(char **copy, size_t size) {
    size_t count = 0;
    while (environ[count] != NULL && count < size) {
        copy[count] = strdup(environ[count]);
        count++;
    }
    return count;
}

int main(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: main FOLDER FILE LIBRARY\n");
        return 2;
    }
    given = (struct given){argv[1], argv[2], argv[3]};
    for (size_t i = 0; i < MANY; i++) many_inputs[i] = input_of("this film was a terrible masterpiece");
    static char *before[4096];
    size_t count = copy_environment(before, 4096);

    /* Set when the library was loaded, if it was not there. */
    CHECK(getenv("ORT_DISABLE_TELEMETRY") != NULL);
    CHECK_CODE(NIMBERT_INVALID_ARGUMENT, nimbert_set_library_path(NULL));
    CHECK_CODE(NIMBERT_LIBRARY_NOT_FOUND, nimbert_set_library_path("/nowhere/libonnxruntime.so"));
    CHECK_MESSAGE("/nowhere/libonnxruntime.so");
    CHECK_CODE(NIMBERT_OK, nimbert_set_library_path(given.library));

    test_open();
    test_classify();
    test_calls();
    test_threads();
    test_process();

    for (size_t i = 0; i < count; i++) {
        CHECK(environ[i] != NULL && strcmp(environ[i], before[i]) == 0);
        free(before[i]);
    }
    CHECK(environ[count] == NULL);
    printf("%d checks, %d failed\n", (int)checks, (int)failures);
    return failures == 0 ? 0 : 1;
}
