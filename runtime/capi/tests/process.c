/* What the library does to its process: nothing is written, and a fork is survived. */
#define _POSIX_C_SOURCE 200809L

#include "check.h"

#include <pthread.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

/* Nobody releases a sanitizer's own locks in a child. */
#ifdef __SANITIZE_ADDRESS__
enum { IS_SANITIZED = 1 };
#else
enum { IS_SANITIZED = 0 };
#endif

static nimbert_classifier *classifier;

static void nothing_is_written(void) {
    FILE *file = tmpfile();
    fflush(stdout);
    int saved[] = {dup(STDOUT_FILENO), dup(STDERR_FILENO)};
    dup2(fileno(file), STDOUT_FILENO);
    dup2(fileno(file), STDERR_FILENO);

    /* Without checks, which write. */
    nimbert_classifier *opened;
    nimbert_results *results;
    nimbert_call *call;
    const nimbert_input input = input_of("great");
    nimbert_code wrong = nimbert_open("/nowhere", NULL, &opened);
    nimbert_code no_bundle = nimbert_open_memory("PK\3\4, but no more", 16, NULL, &opened);
    nimbert_code right = nimbert_open(given.file, NULL, &opened);
    nimbert_code submitted = nimbert_submit(opened, &input, 1, NULL, NULL, NULL, &call);
    nimbert_code classified = nimbert_classify(opened, "great", NULL, NULL, &results);
    nimbert_results_free(results);
    nimbert_code waited = nimbert_call_wait(call, NIMBERT_FOREVER, &results);
    nimbert_results_free(results);
    nimbert_call_free(call);
    nimbert_close(opened);

    dup2(saved[0], STDOUT_FILENO);
    dup2(saved[1], STDERR_FILENO);
    close(saved[0]);
    close(saved[1]);
    struct stat status;
    CHECK(fstat(fileno(file), &status) == 0 && status.st_size == 0);
    fclose(file);
    CHECK(wrong == NIMBERT_IO && no_bundle == NIMBERT_FORMAT && right == NIMBERT_OK);
    CHECK(submitted == NIMBERT_OK && classified == NIMBERT_OK && waited == NIMBERT_OK);
}

/* Runs checks in a child process, which is killed after a minute. */
static void check_in_child(void (*run)(void)) {
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        int before = failures;
        run();
        fflush(stdout);
        /* What the parent's other threads held is lost in the child: valgrind would say so if it ended as itself. */
        const char *end = failures == before ? "true" : "false";
        execlp(end, end, (char *)NULL);
        _exit(2);
    }
    int status;
    CHECK(child > 0 && waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static nimbert_results *parents_results;
static nimbert_call *parents_call;

static void parents_handles_are_refused(void) {
    nimbert_results *results;
    nimbert_call *call;
    const nimbert_input input = input_of("great");
    CHECK_CODE(NIMBERT_FORKED, nimbert_classify(classifier, "great", NULL, NULL, &results));
    CHECK_CODE(NIMBERT_FORKED, nimbert_submit(classifier, &input, 1, NULL, NULL, NULL, &call));
    CHECK_CODE(NIMBERT_FORKED, nimbert_close(classifier));
    CHECK(nimbert_label(classifier, 0) == NULL);
    CHECK_CODE(NIMBERT_FORKED, nimbert_call_wait(parents_call, NIMBERT_FOREVER, &results));
    CHECK_CODE(NIMBERT_FORKED, nimbert_results_free(parents_results));
}

static void a_child_opens_its_own(void) {
    parents_handles_are_refused();
    nimbert_classifier *own = open_bundle();
    nimbert_results *results;
    CHECK_CODE(NIMBERT_OK, nimbert_classify(own, "great", NULL, NULL, &results));
    CHECK(nimbert_results_get(results, 0) != NULL);
    CHECK_CODE(NIMBERT_OK, nimbert_results_free(results));
    CHECK_CODE(NIMBERT_OK, nimbert_close(own));
    CHECK_CODE(NIMBERT_INVALID_HANDLE, nimbert_close(own));
}

static void a_fork_is_noticed(void) {
    const nimbert_input input = input_of("great");
    classifier = open_bundle();
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "great", NULL, NULL, &parents_results));
    CHECK_CODE(NIMBERT_OK, nimbert_submit(classifier, &input, 1, NULL, NULL, NULL, &parents_call));
    nimbert_results *results;
    CHECK_CODE(NIMBERT_OK, nimbert_call_wait(parents_call, NIMBERT_FOREVER, &results));
    CHECK_CODE(NIMBERT_OK, nimbert_results_free(results));
    check_in_child(a_child_opens_its_own);
    /* The parent goes on as before. */
    CHECK(nimbert_results_get(parents_results, 0) != NULL);
    CHECK_CODE(NIMBERT_OK, nimbert_results_free(parents_results));
    CHECK_CODE(NIMBERT_OK, nimbert_call_free(parents_call));
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "great", NULL, NULL, &results));
    CHECK_CODE(NIMBERT_OK, nimbert_results_free(results));
    CHECK_CODE(NIMBERT_OK, nimbert_close(classifier));
}

static atomic_bool is_over;

static void *classify_until_over(void *unused) {
    (void)unused;
    while (!is_over) {
        nimbert_results *results;
        CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "great", NULL, NULL, &results));
        CHECK_CODE(NIMBERT_OK, nimbert_results_free(results));
    }
    return NULL;
}

/* Other threads hold whatever locks there are at that moment. */
static void a_fork_amid_calls_does_not_hang(void) {
    enum { THREADS = 4, FORKS = 50 };
    const nimbert_input input = input_of("great");
    classifier = open_bundle();
    CHECK_CODE(NIMBERT_OK, nimbert_classify(classifier, "great", NULL, NULL, &parents_results));
    CHECK_CODE(NIMBERT_OK, nimbert_submit(classifier, &input, 1, NULL, NULL, NULL, &parents_call));
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, classify_until_over, NULL) == 0);
    for (int i = 0; i < FORKS; i++) check_in_child(parents_handles_are_refused);
    is_over = true;
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    nimbert_results_free(parents_results);
    nimbert_call_free(parents_call);
    CHECK_CODE(NIMBERT_OK, nimbert_close(classifier));
}

void test_process(void) {
    nothing_is_written();
    a_fork_is_noticed();
    if (!IS_SANITIZED) a_fork_amid_calls_does_not_hang();
}
