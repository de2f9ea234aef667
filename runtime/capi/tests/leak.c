/*
 * Leaks on purpose: leak FOLDER LIBRARY must fail under a tool that looks for leaks, or the tool is not on. What a
 * handle names is found by no tool, since the library still knows it; so memory of the program's own is lost too.
 */
#include <nimbert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Not inlined, and not optimized away: the compiler must not know that nobody has the pointer afterwards. */
static void *volatile lost;

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    nimbert_classifier *classifier;
    nimbert_results *results;
    if (nimbert_set_library_path(argv[2]) != NIMBERT_OK || nimbert_open(argv[1], NULL, &classifier) != NIMBERT_OK ||
        nimbert_classify(classifier, "great", NULL, NULL, &results) != NIMBERT_OK) {
        printf("%s\n", nimbert_last_error());
        return 2;
    }
    nimbert_close(classifier);
    for (int i = 0; i < 16; i++) {
        lost = malloc(1000);
        if (lost != NULL) memset(lost, i, 1000);
    }
    lost = NULL;
    return 0;
}
