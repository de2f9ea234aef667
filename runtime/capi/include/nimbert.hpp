/*
 * nimbert for C++17: what nimbert.h has, with destructors and exceptions. It adds nothing else; nimbert.h is
 * the manual.
 *
 * ```cpp
 * nimbert::Classifier classifier("reviews.nimbert", nimbert::Options().set("threads", "2"));
 * for (const nimbert::Prediction &prediction : classifier.classify_batch({"dull", "a delight"}))
 *     std::cout << prediction.label() << ' ' << prediction.score() << '\n';
 * ```
 *
 * What fails throws nimbert::Error. Objects may be moved, not copied. A classifier may be used by any threads at once.
 */
#ifndef NIMBERT_HPP
#define NIMBERT_HPP

#if (defined(_MSVC_LANG) ? _MSVC_LANG : __cplusplus) < 201703L
#error "nimbert.hpp needs C++17"
#endif

#include <chrono>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include "nimbert.h"

namespace nimbert {

/* Why something failed; what() is the message. */
class Error : public std::runtime_error {
public:
    Error(nimbert_code code, const char *message) : std::runtime_error(message), code_(code) {}

    /* NIMBERT_IO and so on. */
    nimbert_code code() const noexcept { return code_; }

private:
    nimbert_code code_;
};

namespace detail {

inline void check(nimbert_code code) {
    if (code != NIMBERT_OK) throw Error(code, nimbert_last_error());
}

template <typename T, nimbert_code (*release)(T *)>
struct Release {
    void operator()(T *handle) const noexcept { release(handle); }
};

template <typename T, nimbert_code (*release)(T *)>
using Handle = std::unique_ptr<T, Release<T, release>>;

} // namespace detail

inline std::string_view version() { return nimbert_version(); }

inline void set_library_path(const std::string &path) { detail::check(nimbert_set_library_path(path.c_str())); }

/* How a bundle is opened: settings by name, which nimbert_options lists. */
class Options {
public:
    Options &set(std::string name, std::string value) {
        settings_.emplace_back(std::move(name), std::move(value));
        return *this;
    }

    const std::vector<std::pair<std::string, std::string>> &settings() const noexcept { return settings_; }

private:
    std::vector<std::pair<std::string, std::string>> settings_;
};

/* How a call is made: nimbert_call_options. */
struct CallOptions {
    /* bundle, left, right or refuse; empty: bundle. */
    std::string truncation;
    /* 0: none. */
    std::chrono::milliseconds timeout{0};
};

/* A text or a pair of texts, which must stay while it is used. */
struct Input {
    template <typename Text, typename = std::enable_if_t<std::is_convertible_v<const Text &, std::string_view>>>
    Input(const Text &only) : text(only) {}
    Input(std::string_view first, std::string_view second) : text(first), pair(second) {}

    std::string_view text;
    std::optional<std::string_view> pair;
};

/* Elements that belong to results. */
template <typename T>
class View {
public:
    View(const T *first, std::size_t size) noexcept : first_(first), size_(size) {}

    std::size_t size() const noexcept { return size_; }
    const T *begin() const noexcept { return first_; }
    const T *end() const noexcept { return first_ + size_; }
    const T &operator[](std::size_t index) const noexcept { return first_[index]; }

private:
    const T *first_;
    std::size_t size_;
};

/* The answer for one input. It belongs to its results and is valid as long as they are. */
class Prediction {
public:
    explicit Prediction(const nimbert_prediction *prediction) noexcept : raw_(prediction) {}

    std::string_view label() const noexcept { return {raw_->label, raw_->label_length}; }
    std::size_t label_id() const noexcept { return raw_->label_id; }
    float score() const noexcept { return raw_->score; }
    bool abstained() const noexcept { return raw_->abstained; }
    View<float> scores() const noexcept { return {raw_->scores, raw_->label_count}; }
    View<float> logits() const noexcept { return {raw_->logits, raw_->label_count}; }
    View<std::size_t> ranking() const noexcept { return {raw_->ranking, raw_->label_count}; }
    View<std::size_t> held() const noexcept { return {raw_->held, raw_->held_count}; }
    /* Empty where the bundle says nothing of it. */
    View<std::size_t> set() const noexcept { return {raw_->set, raw_->set_count}; }
    bool unknown() const noexcept { return raw_->unknown; }
    std::optional<float> distance() const noexcept {
        if (raw_->distance != raw_->distance) return std::nullopt;
        return raw_->distance;
    }
    /* Empty where the bundle has only one task. */
    std::string_view task() const noexcept { return raw_->task ? raw_->task : std::string_view(); }
    /* The answer to the bundle's next task. */
    std::optional<Prediction> next_task() const noexcept {
        if (!raw_->next_task) return std::nullopt;
        return Prediction(raw_->next_task);
    }

private:
    const nimbert_prediction *raw_;
};

/* What a call has answered, in the order of its inputs. */
class Results {
public:
    explicit Results(nimbert_results *results) : handle_(results) {
        while (const nimbert_prediction *next = nimbert_results_get(results, predictions_.size()))
            predictions_.emplace_back(next);
    }

    std::size_t size() const noexcept { return predictions_.size(); }
    const Prediction &operator[](std::size_t index) const { return predictions_.at(index); }
    auto begin() const noexcept { return predictions_.begin(); }
    auto end() const noexcept { return predictions_.end(); }

private:
    detail::Handle<nimbert_results, nimbert_results_free> handle_;
    std::vector<Prediction> predictions_;
};

/* What of an answer is explained: nimbert_explain_options. Texts that are empty are not given. */
struct ExplainOptions {
    std::string task;
    std::string label;
    std::string attribution;
};

/* Why a text gets a label, or does not. One that was moved from has nothing any more. */
class Explanation {
public:
    Explanation(Explanation &&other) noexcept
        : results_(std::move(other.results_)), raw_(std::exchange(other.raw_, nullptr)) {}
    Explanation &operator=(Explanation &&other) noexcept {
        results_ = std::move(other.results_);
        raw_ = std::exchange(other.raw_, nullptr);
        return *this;
    }

    /* The answer to the task that is explained. */
    const Prediction &prediction() const { return results_[0]; }
    std::size_t label_id() const noexcept { return raw_->label_id; }
    double value() const noexcept { return raw_->value; }
    double base_value() const noexcept { return raw_->base_value; }
    View<nimbert_word> words() const noexcept { return {raw_->words, raw_->word_count}; }
    std::size_t unread_count() const noexcept { return raw_->unread_count; }
    /* leave-one-out or shapley. */
    std::string_view attribution() const noexcept { return raw_->attribution; }

private:
    friend class Classifier;
    explicit Explanation(nimbert_results *results) : results_(results), raw_(nimbert_results_explanation(results)) {}

    Results results_;
    const nimbert_explanation *raw_;
};

/* A call that nobody waits for. Destroying it does not cancel it. */
class Call {
public:
    explicit Call(nimbert_call *call) noexcept : handle_(call) {}

    /* Waits for the results. */
    Results wait() const { return *waited(std::nullopt); }

    /* None if they are not there in this time; 0, or a time that is past, does not wait. */
    std::optional<Results> wait_for(std::chrono::milliseconds timeout) const {
        return waited(timeout);
    }

    void cancel() const { detail::check(nimbert_call_cancel(handle_.get())); }

private:
    std::optional<Results> waited(std::optional<std::chrono::milliseconds> timeout) const {
        nimbert_results *results;
        std::uint64_t milliseconds = NIMBERT_FOREVER;
        if (timeout) milliseconds = timeout->count() < 0 ? 0 : static_cast<std::uint64_t>(timeout->count());
        nimbert_code code = nimbert_call_wait(handle_.get(), milliseconds, &results);
        if (code == NIMBERT_NOT_READY) return std::nullopt;
        detail::check(code);
        return Results(results);
    }

    detail::Handle<nimbert_call, nimbert_call_free> handle_;
};

/* What has come of a call, as a callback is told it. */
class Outcome {
public:
    explicit Outcome(Results results) : value_(std::move(results)) {}
    explicit Outcome(Error error) : value_(std::move(error)) {}

    /* The results; throws if the call failed. */
    Results get() && {
        if (const Error *error = std::get_if<Error>(&value_)) throw *error;
        return std::get<Results>(std::move(value_));
    }

private:
    std::variant<Results, Error> value_;
};

/* Told once that a call is done, on another thread; see nimbert_callback. An exception that leaves it ends the
 * program. */
using Callback = std::function<void(Outcome)>;

/* Cancels a call that has a callback. It may be copied, kept and used after the call is done. */
class Canceller {
public:
    explicit Canceller(nimbert_call *call) noexcept : call_(call) {}

    /* Nothing happens if the call is done. */
    void cancel() const noexcept { nimbert_call_cancel(call_); }

private:
    nimbert_call *call_;
};

/* A bundle that is open; destroying it closes it. */
class Classifier {
public:
    /* A folder or a .nimbert file; the path in UTF-8. */
    explicit Classifier(const std::string &path, const Options &options = {}) {
        open(options, [&](const nimbert_options *raw, nimbert_classifier **classifier) {
            return nimbert_open(path.c_str(), raw, classifier);
        });
    }

    /* A .nimbert file in memory, which must stay as nimbert_open_memory says. */
    Classifier(const void *data, std::size_t size, const Options &options = {}) {
        open(options, [&](const nimbert_options *raw, nimbert_classifier **classifier) {
            return nimbert_open_memory(data, size, raw, classifier);
        });
    }

    /* For functions of nimbert.h; it stays this object's. */
    nimbert_classifier *handle() const noexcept { return handle_.get(); }

    /* Those of the task with this number; none behind the last. */
    std::vector<std::string> labels(std::size_t task = 0) const {
        std::vector<std::string> labels;
        while (const char *label = nimbert_task_label(handle(), task, labels.size())) labels.emplace_back(label);
        return labels;
    }

    /* Results of one prediction. */
    Results classify(const Input &input, const CallOptions &options = {}) const {
        return classify_batch({input}, options);
    }

    Results classify_batch(const std::vector<Input> &inputs, const CallOptions &options = {}) const {
        nimbert_results *results;
        detail::check(call(inputs, options, [&](auto... arguments) {
            return nimbert_classify_batch(handle(), arguments..., &results);
        }));
        return Results(results);
    }

    /* Why a text, or a pair, gets its label. */
    Explanation explain(const Input &input, const ExplainOptions &of = {}, const CallOptions &options = {}) const {
        nimbert_explain_options raw_of = NIMBERT_EXPLAIN_OPTIONS_INIT;
        raw_of.task = given(of.task);
        raw_of.label = given(of.label);
        raw_of.attribution = given(of.attribution);
        nimbert_results *results;
        detail::check(call({input}, options, [&](const nimbert_input *raw, std::size_t, auto *raw_options) {
            return nimbert_explain(handle(), raw, &raw_of, raw_options, &results);
        }));
        return Explanation(results);
    }

    /* A call to be waited for later. */
    Call submit(const std::vector<Input> &inputs, const CallOptions &options = {}) const {
        nimbert_call *submitted;
        detail::check(call(inputs, options, [&](auto... arguments) {
            return nimbert_submit(handle(), arguments..., nullptr, nullptr, &submitted);
        }));
        return Call(submitted);
    }

    /* A call whose callback gets its results; an empty one gets none. */
    Canceller submit(const std::vector<Input> &inputs, Callback callback,
                     const CallOptions &options = {}) const {
        auto waiting = std::make_unique<Callback>(std::move(callback));
        nimbert_call *submitted;
        detail::check(call(inputs, options, [&](auto... arguments) {
            return nimbert_submit(handle(), arguments..., call_back, waiting.get(), &submitted);
        }));
        // call_back owns it, and may have deleted it already.
        static_cast<void>(waiting.release());
        return Canceller(submitted);
    }

private:
    template <typename Open>
    void open(const Options &options, Open open) {
        std::vector<nimbert_setting> settings;
        for (const auto &[name, value] : options.settings()) settings.push_back({name.c_str(), value.c_str()});
        nimbert_options raw = NIMBERT_OPTIONS_INIT;
        raw.settings = settings.data();
        raw.setting_count = settings.size();
        nimbert_classifier *classifier;
        detail::check(open(&raw, &classifier));
        handle_.reset(classifier);
    }

    static const char *given(const std::string &text) { return text.empty() ? nullptr : text.c_str(); }

    template <typename Run>
    static nimbert_code call(const std::vector<Input> &inputs, const CallOptions &options, Run run) {
        std::vector<nimbert_input> raw;
        raw.reserve(inputs.size());
        for (const Input &input : inputs) {
            raw.push_back({input.text.data(), input.text.size(), nullptr, 0});
            if (!input.pair) continue;
            // An empty view may have no data, which would be no pair.
            raw.back().pair = input.pair->empty() ? "" : input.pair->data();
            raw.back().pair_length = input.pair->size();
        }
        nimbert_call_options raw_options = NIMBERT_CALL_OPTIONS_INIT;
        raw_options.truncation = given(options.truncation);
        /* 0 is no limit; what is past ends at once. */
        raw_options.timeout_ms = options.timeout.count() < 0 ? 1 : static_cast<std::uint64_t>(options.timeout.count());
        return run(raw.data(), raw.size(), &raw_options);
    }

    static void call_back(nimbert_call *call, void *user_data) noexcept {
        std::unique_ptr<Callback> callback(static_cast<Callback *>(user_data));
        nimbert_results *results;
        nimbert_code code = nimbert_call_wait(call, 0, &results);
        Outcome outcome = code == NIMBERT_OK ? Outcome(Results(results)) : Outcome(Error(code, nimbert_last_error()));
        nimbert_call_free(call);
        if (*callback) (*callback)(std::move(outcome));
    }

    detail::Handle<nimbert_classifier, nimbert_close> handle_;
};

} // namespace nimbert

#endif
