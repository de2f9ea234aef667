/**
 * A text: a string, or its UTF-8 bytes. Bytes must not be changed before the call's promise is settled.
 */
export type Text = string | Uint8Array;
/**
 * What is classified: a text, or, by a classifier of pairs, two texts.
 */
export type Input = Text | readonly [text: Text, pair: Text];
/**
 * How a bundle is opened. The defaults are right for a desktop application.
 */
export type OpenOptions = {
    /**
     * `cpu` (the default), `cuda`, `cuda:1`, `tensorrt`, or `auto`.
     */
    device?: string | undefined;
    /**
     * Threads that classify. Default: one for each core.
     */
    threads?: number | undefined;
    /**
     * The graph's name in the bundle. Default: the one that was made for the device.
     */
    variant?: string | undefined;
    /**
     * What runs beside each other.
     */
    parallelism?: "auto" | "throughput" | "latency" | undefined;
    /**
     * The most texts in one run of the graph.
     */
    batchSize?: number | undefined;
    /**
     * The most tokens in one run of the graph.
     */
    maxBatchTokens?: number | undefined;
    /**
     * How long a text waits for those of other calls, in milliseconds. Default: 0.
     */
    maxWaitMs?: number | undefined;
    /**
     * How many texts may wait; a call that would exceed it fails with `QUEUE_FULL`.
     */
    queueLimit?: number | undefined;
    /**
     * How much memory the process may have: bytes, or `300MB`, `2GB`, `64MiB`.
     */
    memoryLimit?: string | number | undefined;
    /**
     * How much memory of the GPU may be used.
     */
    gpuMemoryLimit?: string | number | undefined;
    /**
     * Where compiled graphs are kept: a folder, `none`, or `auto` (the default), nimbert's own.
     */
    cache?: string | undefined;
    /**
     * When the graph's files are compared with their digests.
     */
    verify?: "once" | "always" | "never" | undefined;
    /**
     * Keys of which one must have signed the bundle: lines of base64, or
     * files.
     */
    publicKey?: string | readonly string[] | undefined;
    /**
     * Which operators a graph may have. Default: `known`.
     */
    operators?: "known" | "any" | undefined;
    /**
     * Whether ONNX Runtime's operators compute alone, without nimbert's own, which are
     * several of them in one.
     */
    standardOperators?: boolean | undefined;
    /**
     * ONNX Runtime's library. Default: what `ORT_DYLIB_PATH` names, or that of the package
     * `onnxruntime-node`. A process has one: the first that is loaded stays.
     */
    ortLib?: string | undefined;
    /**
     * Whether threads that wait keep their cores busy.
     */
    spinning?: boolean | undefined;
    /**
     * Whether fp32 may be multiplied in bfloat16: ARM with that format under Linux, else an error.
     */
    fastMath?: boolean | undefined;
    /**
     * Whether a GPU may leave parts of the graph to the CPU.
     */
    allowCpu?: boolean | undefined;
    /**
     * Where ONNX Runtime writes what each operator took: a path, to which it appends.
     */
    profile?: string | undefined;
};
/**
 * How a call is made.
 */
export type CallOptions = {
    /**
     * Ends the call: its promise is rejected with the signal's reason.
     */
    signal?: AbortSignal | undefined;
    /**
     * After so many milliseconds the call fails with `DEADLINE_PASSED`. Default: never.
     */
    timeoutMs?: number | undefined;
    /**
     * What becomes of a text that is too long: it is cut as
     * the bundle says (the default), at its beginning, at its end, or the call fails with `TOO_LONG`.
     */
    truncation?: "left" | "right" | "bundle" | "refuse" | undefined;
    /**
     * How many labels {@link Prediction.top} has.
     */
    topK?: number | undefined;
};
/**
 * The answer for one input: plain data.
 */
export type Prediction = {
    /**
     * The label with the highest score.
     */
    label: string;
    /**
     * Its score, between 0 and 1.
     */
    score: number;
    /**
     * The score of every label.
     */
    scores: Record<string, number>;
    /**
     * What the graph gave for every label, in the order of {@link Classifier.labels}.
     */
    logits: number[];
    /**
     * The labels that hold: `label`, or, where a text has any number, those that reach their
     * threshold.
     */
    labels: string[];
    /**
     * Whether the classifier is unsure, and `label` a guess.
     */
    abstained: boolean;
    /**
     * The labels among which the right one is in as many cases as the bundle says, if it does.
     */
    set: string[] | null;
    /**
     * How far the text is from those of training, 1 being the mean of theirs, if the bundle says it.
     */
    distance: number | null;
    /**
     * Whether that is more than the bundle's threshold: the text is like nothing in training.
     */
    unknown: boolean;
    /**
     * What the task is called that this is the answer to; null where the bundle has only one.
     */
    task: string | null;
    /**
     * The answers to the bundle's other tasks, by their names; of an explanation, none.
     */
    further: Record<string, Prediction>;
    /**
     * The most likely labels, best first: there if `topK` was given.
     */
    top?: {
        label: string;
        score: number;
    }[] | undefined;
};
/**
 * What of an answer is explained.
 */
export type ExplainOptions = {
    /**
     * The answer to which task. Default: to the first.
     */
    task?: string | undefined;
    /**
     * Why which label. Default: the one that the text gets.
     */
    label?: string | undefined;
    /**
     * What a word's attribution is: what leaving it out changes, a
     * run of the graph a word; a Shapley value (of n words 2ⁿ runs up to ten, 32 n of more); or `auto` (the default): Shapley
     * values up to ten words.
     */
    attribution?: "auto" | "leave-one-out" | "shapley" | undefined;
    /**
     * As in {@link CallOptions}, and so are the two that follow.
     */
    signal?: AbortSignal | undefined;
    timeoutMs?: number | undefined;
    truncation?: "left" | "right" | "bundle" | "refuse" | undefined;
};
/**
 * A word, or a sign, and what it does to the answer.
 */
export type Word = {
    /**
     * The word: that part of its text from `start` to `end`, as it was read.
     */
    text: string;
    /**
     * By how much it raises what is explained.
     */
    attribution: number;
    /**
     * Where it begins in its text, as strings are counted, of bytes too.
     */
    start: number;
    /**
     * Where it ends.
     */
    end: number;
    /**
     * Whether it is one of the second text of a pair.
     */
    isOfPair: boolean;
};
/**
 * Why a text gets a label, or does not: plain data.
 */
export type Explanation = {
    /**
     * The label that is explained.
     */
    label: string;
    /**
     * The words that are read, in their order; of a pair, all words.
     */
    words: Word[];
    /**
     * What is explained: the label's logit, less the mean of all labels' where a text has one label.
     */
    value: number;
    /**
     * The same of a text without words. Shapley values sum to the difference.
     */
    baseValue: number;
    /**
     * What the attributions are.
     */
    attribution: "leave-one-out" | "shapley";
    /**
     * Further words, which are cut off, since the text is too long.
     */
    unreadWords: number;
    /**
     * The answer to the task that is explained.
     */
    prediction: Prediction;
};
/**
 * What went wrong. `CLOSED`: the classifier was closed before the call. `PANIC`: a fault of nimbert's own.
 */
export type ErrorCode = "IO" | "FORMAT" | "CHECKSUM" | "SIGNATURE" | "OUTPUT_EXISTS" | "TOKENIZER" | "TOO_LONG" | "INPUT" | "LIBRARY_NOT_FOUND" | "DEVICE" | "SESSION" | "QUEUE_FULL" | "CANCELLED" | "DEADLINE_PASSED" | "MEMORY_LIMIT" | "SETTING" | "FORKED" | "CLOSED" | "PANIC";
/**
 * A text classifier. It works on threads of its own; inputs of calls that overlap are run together. Its memory is free
 * after {@link Classifier.close}, or some time after it was last referenced.
 */
export class Classifier {
    /**
     * Opens a bundle: a folder, or a `.nimbert` file.
     * @param {string | URL} path
     * @param {OpenOptions} [options]
     * @returns {Promise<Classifier>}
     */
    static open(path: string | URL, options?: OpenOptions): Promise<Classifier>;
    /**
     * Opens the content of a `.nimbert` file. It is copied, and the copy is kept until the classifier is closed: a path
     * takes less memory.
     * @param {Uint8Array} buffer
     * @param {OpenOptions} [options]
     * @returns {Promise<Classifier>}
     */
    static fromBuffer(buffer: Uint8Array, options?: OpenOptions): Promise<Classifier>;
    /**
     * @private
     * @param {any} opened
     */
    private constructor();
    /**
     * Label names in the order of their ids; of a bundle with several tasks, the first one's.
     * @readonly
     * @type {readonly string[]}
     */
    readonly labels: readonly string[];
    /**
     * The labels of each task by its name, of a bundle with several; else empty.
     * @readonly
     * @type {Readonly<Record<string, readonly string[]>>}
     */
    readonly tasks: Readonly<Record<string, readonly string[]>>;
    /**
     * Where the graph runs: `cpu`, `cuda`, `cuda:1`, `tensorrt`, ….
     * @readonly
     * @type {string}
     */
    readonly device: string;
    /**
     * How many tokens of a text are read.
     * @readonly
     * @type {number}
     */
    readonly maxLength: number;
    /**
     * Classifies one text, or a pair of texts.
     * @param {Input} input
     * @param {CallOptions} [options]
     * @returns {Promise<Prediction>}
     */
    classify(input: Input, options?: CallOptions): Promise<Prediction>;
    /**
     * Classifies many texts, or pairs of texts; the answers come in the same order. For texts without end make calls of
     * some thousands, two at a time.
     * @param {Iterable<Input>} inputs
     * @param {CallOptions} [options]
     * @returns {Promise<Prediction[]>}
     */
    classifyBatch(inputs: Iterable<Input>, options?: CallOptions): Promise<Prediction[]>;
    /**
     * Attributes the answer for a text, or a pair of texts, to its words, by what it would be without some of them.
     * @param {Input} input
     * @param {ExplainOptions} [options]
     * @returns {Promise<Explanation>}
     */
    explain(input: Input, options?: ExplainOptions): Promise<Explanation>;
    /**
     * Ends the classifier: calls that run fail with `CANCELLED`. The promise is settled when its memory is free.
     * @returns {Promise<void>}
     */
    close(): Promise<void>;
    #private;
}
/** Says which file or thing is concerned, what was expected and what was found. */
export class NimbertError extends Error {
    /**
     * @param {ErrorCode} code
     * @param {string} message
     */
    constructor(code: ErrorCode, message: string);
    /**
     * What went wrong.
     * @readonly
     */
    readonly code: ErrorCode;
}
