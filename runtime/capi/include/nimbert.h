/*
 * nimbert: text classification by a bundle that nimbert-train has made. This header is the manual.
 *
 * An example, complete:
 *
 * ```c
 * #include <nimbert.h>
 * #include <stdio.h>
 *
 * int main(void) {
 *     nimbert_options options = NIMBERT_OPTIONS_INIT;
 *     options.threads = 2;
 *     nimbert_classifier *classifier;
 *     if (nimbert_open("reviews.nimbert", &options, &classifier) != NIMBERT_OK) {
 *         fprintf(stderr, "%s\n", nimbert_last_error());
 *         return 1;
 *     }
 *     nimbert_results *results;
 *     if (nimbert_classify(classifier, "I love this movie!", NULL, NULL, &results) == NIMBERT_OK) {
 *         const nimbert_prediction *prediction = nimbert_results_get(results, 0);
 *         printf("%s %.3f\n", prediction->label, prediction->score);
 *     } else {
 *         fprintf(stderr, "%s\n", nimbert_last_error());
 *     }
 *     nimbert_results_free(results);
 *     nimbert_close(classifier);
 *     return 0;
 * }
 * ```
 *
 * ANSWERS. Functions return a code, NIMBERT_OK if they did what they were asked for. Those that give a handle
 * write it to their last argument, or NULL there if they fail. Functions that return a pointer return NULL if
 * they fail. In each case nimbert_last_error() says why, with what was expected and what was found.
 *
 * HANDLES. nimbert_classifier, nimbert_call and nimbert_results are handles: what was given to you is yours,
 * until you give it to nimbert_close, nimbert_call_free or nimbert_results_free. The library never follows a
 * handle. One that was closed or freed, is of another kind, or was never one, is NIMBERT_INVALID_HANDLE,
 * whatever the function. NULL is too, but closing or freeing NULL does nothing and is NIMBERT_OK. Handles do
 * not depend on each other: results and calls stay when their classifier is closed. Tools that look for leaks
 * do not see a handle that was not closed: what it names is still known to the library.
 *
 * POINTERS. What you pass is read while the function runs and is yours afterwards, but for the bytes of
 * nimbert_open_memory. It must not be changed meanwhile. Where NULL may be passed, it says so; elsewhere NULL
 * is NIMBERT_INVALID_ARGUMENT. What the library returns a pointer to must not be freed or changed; how long
 * it stays is said with the function.
 *
 * TEXTS are UTF-8; bytes that are not are NIMBERT_INVALID_ARGUMENT, and the message says where the first one
 * is. Texts to be classified by nimbert_classify_batch and nimbert_submit have a length in bytes, need no NUL
 * behind and may have NULs inside. All other texts end with NUL, those that the library gives too. (Where a
 * label has a NUL, it gives a space.)
 *
 * STRUCTS that a program fills begin with their size: initialize them with their macro. So a program that was
 * compiled with an older header than the library's works, with the defaults of that time for what it does not
 * know; and one that was compiled with a newer header works as long as it leaves at zero what this library
 * does not know. If it does not, that is NIMBERT_INVALID_ARGUMENT: nothing is ignored without a word. Passing
 * NULL for options means the defaults.
 *
 * TIMES are in milliseconds. A text's or label's position counts from 0.
 *
 * THREADS. Every function may be called by any thread at any time, with the same handles too; texts of calls
 * that overlap are run together. Only what is read through a pointer is yours to guard: do not free results
 * that another thread reads. A classifier may be closed while others use it: calls that have begun end as
 * they would have, later ones are NIMBERT_INVALID_HANDLE. The last error is kept for each thread. The library
 * makes threads of its own, which end when the classifier is closed and the last call with it has ended. No
 * function may be called from a signal handler. The library must not be unloaded; on Linux dlclose leaves it
 * where it is.
 *
 * FORK. What was opened before a fork is not usable in the child: there every function answers NIMBERT_FORKED
 * for handles of the parent, at once, and what the library has returned pointers to stays readable. The child
 * may open classifiers of its own, provided that no other thread was inside a function of the library when it
 * was forked.
 *
 * THE PROCESS. The library writes nothing to standard output or standard error, never ends the process and
 * installs no signal handlers. A fault inside of it (a panic) becomes NIMBERT_PANIC, and where a call was
 * submitted NIMBERT_SESSION; close the classifier then. One environment variable is set, when the library is
 * loaded, on Linux only if the program has no other thread yet: ORT_DISABLE_TELEMETRY=1, unless the variable
 * is there already. It keeps ONNX Runtime from reporting its use to its maker. A program that loads the library
 * later, with dlopen beside other threads, sets the variable itself, before it makes threads. After loading, the
 * environment is not touched.
 *
 * ONNX RUNTIME (1.18 or newer) is a library of its own, loaded when the first classifier is opened: the file
 * that nimbert_set_library_path or the setting ort_lib names; else the one in the environment variable
 * ORT_DYLIB_PATH; else libonnxruntime.so (onnxruntime.dll, libonnxruntime.dylib) beside the program's
 * executable, in ../lib/nimbert or ../lib from there, on Linux in the folder nimbert beside libnimbert.so.0 or
 * beside it, in the Python environment that the executable lies in, in .setup/lib beside a folder called target
 * that it lies in (a checkout of nimbert), or where the system looks for libraries.
 *
 * VERSIONS. Numbers of codes never change and are never used again. Fields of structs are never moved; new
 * ones come behind the last. In all versions of the library with one soname (libnimbert.so.0), what this
 * header declares stays as it is. A program meets codes that it does not know: it treats them as errors like
 * any other.
 */
#ifndef NIMBERT_H
#define NIMBERT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The version of this header; nimbert_version() is the library's. */
#define NIMBERT_VERSION "0.1.0"
#define NIMBERT_VERSION_MAJOR 0
#define NIMBERT_VERSION_MINOR 1
#define NIMBERT_VERSION_PATCH 0

/* Define NIMBERT_STATIC on Windows if you link the static library. */
#if defined(_WIN32) && !defined(NIMBERT_STATIC)
#define NIMBERT_API __declspec(dllimport)
#else
#define NIMBERT_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* -------------------------------------------------------------------------------------------------- Codes */

/* What a function answers: one of the numbers below. */
typedef int32_t nimbert_code;

enum {
    NIMBERT_OK = 0,

    /* The system could not read or write a file. */
    NIMBERT_IO = 1,
    /* A file of the bundle is not what its format asks for. */
    NIMBERT_FORMAT = 2,
    /* A file of the bundle is damaged: it is not what its digest says. */
    NIMBERT_CHECKSUM = 3,
    /* The bundle was not signed by one of the keys that were asked for (setting public_key). */
    NIMBERT_SIGNATURE = 4,
    /* The place for something new is taken. */
    NIMBERT_OUTPUT_EXISTS = 5,
    /* The tokenizer refused a text. */
    NIMBERT_TOKENIZER = 6,
    /* A text has more tokens than the model reads, and truncation is "refuse". */
    NIMBERT_TOO_LONG = 7,
    /* One text where the classifier reads pairs, or a pair where it reads single texts. */
    NIMBERT_INPUT = 8,
    /* No usable library of ONNX Runtime was found; the message lists what was tried. */
    NIMBERT_LIBRARY_NOT_FOUND = 9,
    /* The device that was asked for cannot be used; no other is taken in its place. */
    NIMBERT_DEVICE = 10,
    /* ONNX Runtime refused the graph, or a run of it failed. */
    NIMBERT_SESSION = 11,
    /* As many texts wait as may (setting queue_limit): try again later. */
    NIMBERT_QUEUE_FULL = 12,
    /* The call was cancelled, or its classifier closed, before it was done. */
    NIMBERT_CANCELLED = 13,
    /* The call's timeout_ms passed before it was done. */
    NIMBERT_DEADLINE_PASSED = 14,
    /* A text, or the graph, needs more memory than it may have (settings memory_limit, gpu_memory_limit). */
    NIMBERT_MEMORY_LIMIT = 15,
    /* A setting's name or value is none. */
    NIMBERT_SETTING = 16,
    /* The handle was made before this process was forked. */
    NIMBERT_FORKED = 17,

    /* An argument is not what this header asks for. */
    NIMBERT_INVALID_ARGUMENT = 100,
    /* The handle was closed or freed, is of another kind, NULL, or was never one. */
    NIMBERT_INVALID_HANDLE = 101,
    /* A fault of the library: please report it with its message. */
    NIMBERT_PANIC = 102,
    /* The call is not done yet; it goes on. */
    NIMBERT_NOT_READY = 103
};

/* -------------------------------------------------------------------------------------------------- Types */

/* A bundle that is open. */
typedef struct nimbert_classifier nimbert_classifier;

/* A call that nobody waits for. */
typedef struct nimbert_call nimbert_call;

/* What a call has answered, in the order of its inputs. */
typedef struct nimbert_results nimbert_results;

/* One setting, by its name. Names and values are the same in every language that nimbert has a library for. */
typedef struct nimbert_setting {
    const char *name;
    const char *value;
} nimbert_setting;

/*
 * How a bundle is opened. The settings, by name:
 *
 *   device             cpu (the default), cuda, cuda:N, tensorrt, tensorrt:N, or auto: the first that works of
 *                      TensorRT, CUDA and the processor
 *   threads            1 to 1024; the default is the number of cores that the process may use
 *   cache              a folder where what was compiled for this machine is kept, so that the next start is
 *                      faster and processes share memory; auto: nimbert's own folder; none, the default:
 *                      nothing is written
 *   variant            the name of one of the bundle's graphs
 *   parallelism        auto (the default), latency (least memory) or throughput (many texts)
 *   batch_size         the most texts in one run of the graph
 *   max_batch_tokens   the most tokens in one run of the graph
 *   max_wait_ms        how long a text waits for others to be run with; 0 by default
 *   queue_limit        how many texts may wait
 *   memory_limit       how much memory the process may have: 300MB, 2GB, 64MiB, or bytes
 *   gpu_memory_limit   the same for the GPU; an error where the device is the processor
 *   verify             when files are compared with their digests: always, once (the default) or never,
 *                      which is an error with a public_key
 *   public_key         a key that must have signed the bundle: its line of base64, or its file. May be set
 *                      several times: one of them, then.
 *   operators          what a graph may consist of: known (the default) or any
 *   standard_operators whether ONNX Runtime's operators compute graphs on the CPU alone, without
 *                      nimbert's own, which are several of them in one: true or false
 *   ort_lib            the file of ONNX Runtime's library, see nimbert_set_library_path
 *   spinning           whether threads wait actively: true or false
 *   fast_math          whether fp32 may be multiplied in bfloat16 (aarch64 with that format, Linux; an error
 *                      elsewhere; of a GPU that auto has chosen it says nothing): true or false
 *   allow_cpu          whether a GPU may leave parts of the graph to the processor, for which it is an
 *                      error: true or false
 *   profile            a file that ONNX Runtime's profile is written to: number, time and .json are appended
 */
typedef struct nimbert_options {
    /* sizeof(nimbert_options), as NIMBERT_OPTIONS_INIT sets it. */
    size_t size;
    /* The setting device; NULL: its default. */
    const char *device;
    /* The setting threads; 0: its default. */
    size_t threads;
    /* The setting cache; NULL: its default. */
    const char *cache;
    /* Further settings, set in their order after the fields above; NULL if there are none. */
    const nimbert_setting *settings;
    size_t setting_count;
} nimbert_options;

#define NIMBERT_OPTIONS_INIT {sizeof(nimbert_options), NULL, 0, NULL, NULL, 0}

/* How a call is made. */
typedef struct nimbert_call_options {
    /* sizeof(nimbert_call_options), as NIMBERT_CALL_OPTIONS_INIT sets it. */
    size_t size;
    /*
     * What becomes of a text that is too long for the model: bundle (what the bundle says), left or right (it
     * is cut at that side), refuse (NIMBERT_TOO_LONG). NULL: bundle.
     */
    const char *truncation;
    /* How long the call may take before it is NIMBERT_DEADLINE_PASSED; 0: as long as it takes. */
    uint64_t timeout_ms;
} nimbert_call_options;

#define NIMBERT_CALL_OPTIONS_INIT {sizeof(nimbert_call_options), NULL, 0}

/* What is classified: a text, or a pair of texts such as a question and an answer. */
typedef struct nimbert_input {
    /* UTF-8. May be NULL if length is 0. */
    const char *text;
    /* In bytes. */
    size_t length;
    /* The second text; NULL if there is none. An empty one is not NULL. */
    const char *pair;
    /* In bytes. */
    size_t pair_length;
} nimbert_input;

/*
 * The answer for one input. Later versions may add fields behind the last: a prediction is only ever reached
 * through nimbert_results_get, and the next one does not follow it in memory.
 */
typedef struct nimbert_prediction {
    /* The label with the highest score. */
    const char *label;
    /* In bytes, without the NUL. */
    size_t label_length;
    /* Its position among the labels: scores[label_id] is score. */
    size_t label_id;
    /* Between 0 and 1. */
    float score;
    /* Whether the score is under the bundle's threshold: the classifier is unsure, and label is a guess. */
    bool abstained;

    /* How many labels the classifier has: the length of the three arrays that follow. */
    size_t label_count;
    /*
     * The score of each label, in the order of their ids. Where a text has one label they are probabilities
     * that sum to 1; where it has any number of labels, each is a probability of its own.
     */
    const float *scores;
    /* What the graph gave for each label, in the order of their ids, before they became scores. */
    const float *logits;
    /* The ids of all labels, best first: the first k of them are the k best. */
    const size_t *ranking;

    /*
     * The ids of the labels that hold, ascending: label_id alone, or, where a text has any number of labels,
     * those whose score reaches their threshold.
     */
    const size_t *held;
    /* How many; where a text has any number of labels, that may be 0. */
    size_t held_count;

    /*
     * The ids of the labels among which the right one is in as many cases as the bundle says, ascending: never
     * empty. NULL where the bundle says nothing of it.
     */
    const size_t *set;
    size_t set_count;
    /* Whether the text is like nothing in training, by the bundle's threshold: label means nothing then. */
    bool unknown;
    /*
     * How far it is from the texts of training, 1 being the mean of theirs; NaN where the bundle says nothing
     * of it.
     */
    float distance;

    /* What the task is called that this is the answer to; NULL where the bundle has only one. */
    const char *task;
    /* The answer to the bundle's next task for the same input; NULL if this is the last, or the one explained. */
    const struct nimbert_prediction *next_task;
} nimbert_prediction;

/* What of an answer is explained, and how. */
typedef struct nimbert_explain_options {
    /* sizeof(nimbert_explain_options), as NIMBERT_EXPLAIN_OPTIONS_INIT sets it. */
    size_t size;
    /* The answer to the task of this name; NULL: to the first. */
    const char *task;
    /* Why this label; NULL: the one that the text gets. */
    const char *label;
    /*
     * What a word's attribution is: leave-one-out (what leaving out the word changes, a run of the graph a
     * word), shapley (what it adds, over all orders in which words could come in; the sum is value less
     * base_value; of n words 2^n runs up to ten words, 32 n of more, and an estimate then), or auto: shapley up
     * to ten words, else leave-one-out. NULL: auto.
     */
    const char *attribution;
} nimbert_explain_options;

#define NIMBERT_EXPLAIN_OPTIONS_INIT {sizeof(nimbert_explain_options), NULL, NULL, NULL}

/* A word and what it does to the answer. Signs are words too; words of an array follow each other in memory. */
typedef struct nimbert_word {
    /* Where it begins in its text, and where it ends, in bytes. */
    size_t start;
    size_t end;
    /* By how much it raises what is explained. */
    double attribution;
    /* Whether it is one of the second text of a pair; such words come behind those of the first. */
    bool is_of_pair;
} nimbert_word;

/* Why a text gets a label, or does not. Later versions may add fields behind the last. */
typedef struct nimbert_explanation {
    /* The label that is explained. */
    size_t label_id;
    /*
     * What is explained: the label's logit for the whole text, less the mean of all labels' where a text has
     * one label.
     */
    double value;
    /* The same of a text without words. */
    double base_value;
    /* The words that are read, in their order; of a pair, all words. */
    const nimbert_word *words;
    size_t word_count;
    /* How many words more the text has, which are cut off, since it is too long; of a pair, 0. */
    size_t unread_count;
    /* What the attributions are: leave-one-out or shapley. */
    const char *attribution;
} nimbert_explanation;

/*
 * Told that a call is done: nimbert_call_wait(call, 0, ...) answers now. It runs exactly once for each call,
 * on a thread of the library (or, where the system gives no threads, inside of nimbert_submit), and may do so
 * before nimbert_submit has returned.
 *
 * It may call every function, with these limits. nimbert_call_wait does not wait there: with a timeout other
 * than 0 it is NIMBERT_INVALID_ARGUMENT. nimbert_close does not wait there either, so that callbacks of the
 * classifier's other calls may still come afterwards. It may free the call. It should return soon, since
 * further calls wait for the thread; a window is told what to show by a message to its own thread. No C++
 * exception and no longjmp may leave it.
 */
typedef void (*nimbert_callback)(nimbert_call *call, void *user_data);

/* --------------------------------------------------------------------------------- The library as a whole */

/* The library's version, such as "0.1.0". Stays for ever. */
NIMBERT_API const char *nimbert_version(void);

/*
 * Why this thread's last call failed; an empty text if it did not. Never NULL. Stays until the thread calls
 * another function than this and nimbert_version.
 */
NIMBERT_API const char *nimbert_last_error(void);

/*
 * Loads ONNX Runtime's library from this file; a relative path is one from the working directory. A process
 * loads it once: call this before the first classifier is opened. Once a library is loaded, further calls
 * change nothing.
 */
NIMBERT_API nimbert_code nimbert_set_library_path(const char *path);

/* -------------------------------------------------------------------------------------------- Classifiers */

/*
 * Opens the bundle at `path`, a folder or a .nimbert file. That takes from some milliseconds to some seconds:
 * a program with a window does it on another thread. Once the bundle is open, its files may be changed or
 * removed.
 */
NIMBERT_API nimbert_code nimbert_open(const char *path, const nimbert_options *options,
                                      nimbert_classifier **classifier);

/*
 * Opens a .nimbert file that is in memory, compiled into the program or mapped. The bytes are not copied.
 * They must stay, unchanged, until nimbert_close has returned, outside of any callback, and no other thread
 * is in a call with the classifier.
 */
NIMBERT_API nimbert_code nimbert_open_memory(const void *data, size_t size, const nimbert_options *options,
                                             nimbert_classifier **classifier);

/*
 * Closes a classifier. Its submitted calls that are not done become NIMBERT_CANCELLED; their callbacks have
 * run when this returns, and none comes later. So a callback must not wait for what the closing thread holds.
 * Calls of other threads go on to their end, and the last of them frees the memory.
 */
NIMBERT_API nimbert_code nimbert_close(nimbert_classifier *classifier);

/*
 * The name of the label with this id; NULL behind the last one, so that a loop from 0 finds all. Of a bundle
 * with several tasks, those of the first. Stays until the classifier is closed.
 */
NIMBERT_API const char *nimbert_label(nimbert_classifier *classifier, size_t id);

/*
 * The same of the task with this number, counted from 0 in the order in which predictions follow each other;
 * NULL behind the last task too.
 */
NIMBERT_API const char *nimbert_task_label(nimbert_classifier *classifier, size_t task, size_t id);

/* ---------------------------------------------------------------------------------------- Calls that wait */

/*
 * Classifies one text that ends with NUL, or a pair of them; `pair` is NULL if there is none. The results are
 * one prediction.
 */
NIMBERT_API nimbert_code nimbert_classify(nimbert_classifier *classifier, const char *text, const char *pair,
                                          const nimbert_call_options *options, nimbert_results **results);

/*
 * Classifies `count` texts or pairs: all of them, or the call fails. They get the answers that they would get
 * alone. `inputs` may be NULL if `count` is 0. The call needs memory for all of them: give a million texts in
 * parts of some thousands.
 */
NIMBERT_API nimbert_code nimbert_classify_batch(nimbert_classifier *classifier, const nimbert_input *inputs,
                                                size_t count, const nimbert_call_options *options,
                                                nimbert_results **results);

/*
 * Explains the answer for one text, or a pair, by its words: by what it would be without some of them. The
 * results are one prediction, that of the task that is explained, and nimbert_results_explanation has the
 * rest. `of` may be NULL. It takes as long as so many texts as there are runs (see attribution), and cannot be
 * given up: timeout_ms bounds it. A task or a label that the bundle has not is NIMBERT_SETTING.
 */
NIMBERT_API nimbert_code nimbert_explain(nimbert_classifier *classifier, const nimbert_input *input,
                                         const nimbert_explain_options *of, const nimbert_call_options *options,
                                         nimbert_results **results);

/* ---------------------------------------------------------------------------- Calls that nobody waits for */

/*
 * The same as nimbert_classify_batch, but copies the texts and returns at once. `callback` is told when the
 * call is done; it may be NULL, and the call is asked for by nimbert_call_wait then. `user_data` is handed to
 * it, and may be anything.
 */
NIMBERT_API nimbert_code nimbert_submit(nimbert_classifier *classifier, const nimbert_input *inputs, size_t count,
                                        const nimbert_call_options *options, nimbert_callback callback,
                                        void *user_data, nimbert_call **call);

/* A time-out that never passes. */
#define NIMBERT_FOREVER UINT64_MAX

/*
 * What the call has answered: its results, or its error as nimbert_classify_batch would return it. Waits at
 * most `timeout_ms` for it, with 0 not at all; NIMBERT_NOT_READY if it is not done then. May be asked for
 * several times: the results are a handle of their own each time, which is to be freed.
 */
NIMBERT_API nimbert_code nimbert_call_wait(nimbert_call *call, uint64_t timeout_ms, nimbert_results **results);

/*
 * Asks that the call be given up: it becomes NIMBERT_CANCELLED within some 50 milliseconds, unless it was done
 * before. Does not wait for that; the callback comes as ever.
 */
NIMBERT_API nimbert_code nimbert_call_cancel(nimbert_call *call);

/*
 * Frees the handle; the call itself goes on, unless it was cancelled. Its callback comes, but has no call to
 * ask then: free it in the callback, or after.
 */
NIMBERT_API nimbert_code nimbert_call_free(nimbert_call *call);

/* ------------------------------------------------------------------------------------------------ Results */

/*
 * The answer for the input at `index`; NULL behind the last one, so that a loop from 0 finds all. Stays until
 * the results are freed.
 */
NIMBERT_API const nimbert_prediction *nimbert_results_get(nimbert_results *results, size_t index);

/*
 * Why the answer is what it is, of results of nimbert_explain; NULL of others. Stays until the results are
 * freed.
 */
NIMBERT_API const nimbert_explanation *nimbert_results_explanation(nimbert_results *results);

/* Frees results, and all that predictions and the explanation point to. */
NIMBERT_API nimbert_code nimbert_results_free(nimbert_results *results);

#ifdef __cplusplus
}
#endif

#endif
