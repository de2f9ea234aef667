/* What the tests share: checks that count, texts, and what the program was given. */
#ifndef CHECK_H
#define CHECK_H

#include <nimbert.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

/* What the program was given: one bundle, as a folder and as a file, and ONNX Runtime's library. */
struct given {
    const char *folder;
    const char *file;
    const char *library;
};

extern struct given given;
extern atomic_int checks;
extern atomic_int failures;

/* Does not stop at a failure: the rest tells more. */
#define CHECK(condition) check((condition), #condition, __FILE__, __LINE__)

static inline bool check(bool holds, const char *what, const char *file, int line) {
    atomic_fetch_add(&checks, 1);
    if (!holds) {
        atomic_fetch_add(&failures, 1);
        printf("%s:%d: expected %s\n", file, line, what);
        fflush(stdout);
    }
    return holds;
}

/* A call's code; the message must be there if it failed, and only then. */
#define CHECK_CODE(expected, call) check_code((expected), (call), #call, __FILE__, __LINE__)

static inline bool check_code(nimbert_code expected, nimbert_code code, const char *call, const char *file, int line) {
    const char *message = nimbert_last_error();
    atomic_fetch_add(&checks, 1);
    bool holds = code == expected && (code == NIMBERT_OK) == (message[0] == '\0');
    if (!holds) {
        atomic_fetch_add(&failures, 1);
        printf("%s:%d: expected code %d of %s, found %d: %s\n", file, line, (int)expected, call, (int)code, message);
        fflush(stdout);
    }
    return holds;
}

#define CHECK_MESSAGE(part) CHECK(strstr(nimbert_last_error(), (part)) != NULL)

/* The bundle, opened; ends the program if that fails. */
nimbert_classifier *open_bundle(void);

/* The file's bytes, to be freed; ends the program if that fails. */
char *read_file(const char *path, size_t *size);

/* An input of one text that ends with NUL. */
nimbert_input input_of(const char *text);

/* The next of a sequence of numbers that look random; the seed is not 0. */
unsigned next_random(unsigned *seed);

/* `size` bytes with a text of 1 to 20 words. */
void write_text(unsigned *seed, char *text, size_t size);

void sleep_ms(long milliseconds);

/* Both are answers for one text: the same label, and scores within 1e-4, which a batch may change. */
bool is_same(const nimbert_prediction *one, const nimbert_prediction *other);

/* So many inputs of one text that they take longer than any test waits before it cancels them. */
#define MANY 50000
extern nimbert_input many_inputs[MANY];

/* One file of tests each. */
void test_open(void);
void test_classify(void);
void test_calls(void);
void test_threads(void);
void test_process(void);

#endif
