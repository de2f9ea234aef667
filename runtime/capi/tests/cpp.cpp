// Tests of nimbert.hpp: cpp FOLDER FILE LIBRARY, as for main.c.
#include <nimbert.hpp>

#include <atomic>
#include <fstream>
#include <future>
#include <iostream>
#include <iterator>

static int failures = 0;

#define CHECK(condition) check((condition), #condition, __LINE__)

static void check(bool holds, const char *what, int line) {
    if (holds) return;
    failures++;
    std::cout << __FILE__ << ':' << line << ": expected " << what << '\n';
}

// The code with which `run` fails.
template <typename Run>
static nimbert_code code_of(Run run) {
    try {
        run();
        return NIMBERT_OK;
    } catch (const nimbert::Error &error) {
        CHECK(error.what()[0] != '\0');
        return error.code();
    }
}

static void errors_are_exceptions(const std::string &folder, const nimbert::Classifier &classifier) {
    CHECK(code_of([] { nimbert::set_library_path("/nowhere\xff"); }) == NIMBERT_INVALID_ARGUMENT);
    CHECK(code_of([] { nimbert::Classifier("/nowhere"); }) == NIMBERT_IO);
    const nimbert::Options toaster = nimbert::Options().set("device", "toaster");
    CHECK(code_of([&] { nimbert::Classifier(folder, toaster); }) == NIMBERT_SETTING);
    CHECK(code_of([&] { classifier.classify("\xff"); }) == NIMBERT_INVALID_ARGUMENT);
    CHECK(code_of([&] { classifier.classify("great", {"middle", {}}); }) == NIMBERT_SETTING);
    const std::vector<nimbert::Input> many(50000, "this film was a terrible masterpiece");
    const nimbert::CallOptions hasty = {"", std::chrono::milliseconds(1)};
    CHECK(code_of([&] { classifier.classify_batch(many, hasty); }) == NIMBERT_DEADLINE_PASSED);
    CHECK(code_of([&] { classifier.submit({"\xff"}, [](nimbert::Outcome) {}); }) == NIMBERT_INVALID_ARGUMENT);
}

static void results_are_iterated(const nimbert::Classifier &classifier) {
    const std::vector<std::string> labels = classifier.labels();
    const std::string owned = "a great film";
    const nimbert::Results results = classifier.classify_batch({"terrible", owned, std::string_view("loved", 4), ""});
    CHECK(results.size() == 4);
    std::size_t count = 0;
    for (const nimbert::Prediction &prediction : results) {
        CHECK(prediction.label() == labels.at(prediction.label_id()));
        CHECK(prediction.score() == prediction.scores()[prediction.label_id()]);
        CHECK(prediction.scores().size() == labels.size() && prediction.logits().size() == labels.size());
        CHECK(prediction.ranking()[0] == prediction.label_id());
        for (std::size_t id : prediction.held()) CHECK(id < labels.size());
        count++;
    }
    CHECK(count == 4);
    CHECK(classifier.classify(owned)[0].label() == results[1].label());
    CHECK(classifier.classify_batch({}).size() == 0);
    // Views without data are empty texts, the second of a pair too.
    const nimbert_code pair = code_of([&] { classifier.classify({"a", "b"}); });
    CHECK(code_of([&] { classifier.classify({std::string_view(), std::string_view()}); }) == pair);
}

static void some_bundles_say_more(const std::string &folder, const nimbert::Classifier &classifier) {
    const nimbert::Results plain = classifier.classify("great");
    CHECK(plain[0].set().size() == 0 && !plain[0].distance() && !plain[0].unknown());
    const nimbert::Classifier certain(folder + "/../bundle-certain");
    const nimbert::Results results = certain.classify_batch({"great acting", "terrible , a great plot"});
    CHECK(results[0].unknown() && !results[1].unknown());
    CHECK(*results[0].distance() > *results[1].distance());
    for (const nimbert::Prediction &prediction : results) {
        bool has_label = false;
        for (std::size_t id : prediction.set()) has_label = has_label || id == prediction.label_id();
        CHECK(has_label);
    }
}

static void some_bundles_have_several_tasks(const std::string &folder, const nimbert::Classifier &classifier) {
    const nimbert::Results plain = classifier.classify("great");
    CHECK(plain[0].task().empty() && !plain[0].next_task());
    const nimbert::Classifier tasks(folder + "/../bundle-tasks");
    CHECK(tasks.labels() == tasks.labels(0) && tasks.labels(0).size() == 3);
    CHECK((tasks.labels(1) == std::vector<std::string>{"great", "terrible"}) && tasks.labels(2).empty());
    const nimbert::Results results = tasks.classify_batch({"great plot and plot 2", "terrible films and films 1"});
    CHECK(results.size() == 2);
    CHECK(results[0].task() == "stars" && results[0].label() == "10" && results[1].label() == "1");
    const nimbert::Prediction mood = *results[1].next_task();
    CHECK(mood.task() == "mood" && mood.label() == "terrible" && !mood.next_task());
    CHECK(mood.scores().size() == 2 && mood.scores()[mood.label_id()] == mood.score());
}

static void words_explain_answers(const std::string &folder, const nimbert::Classifier &classifier) {
    const std::string text = "a great plot";
    const nimbert::Explanation explanation = classifier.explain(text, {"", classifier.labels()[0], "shapley"});
    CHECK(explanation.label_id() == 0 && explanation.attribution() == "shapley" && explanation.unread_count() == 0);
    CHECK(explanation.prediction().label() == classifier.classify(text)[0].label());
    double sum = explanation.base_value() - explanation.value();
    std::string words;
    for (const nimbert_word &word : explanation.words()) {
        words += text.substr(word.start, word.end - word.start) + ' ';
        sum += word.attribution;
    }
    CHECK(words == "a great plot " && sum > -1e-4 && sum < 1e-4);
    CHECK(code_of([&] { classifier.explain(text, {"no such task", "", ""}); }) == NIMBERT_SETTING);
    CHECK(code_of([&] { classifier.explain(text, {}, {"middle", {}}); }) == NIMBERT_SETTING);
    const nimbert::Classifier tasks(folder + "/../bundle-tasks");
    const nimbert::Explanation mood = tasks.explain(text, {"mood", "terrible", ""});
    CHECK(mood.prediction().task() == "mood" && mood.prediction().label() == "great" && mood.label_id() == 1);
    CHECK(!mood.prediction().next_task() && mood.words()[1].attribution < 0);
    // Words behind a NUL are words, and those of the second text of a pair come behind the first's.
    CHECK(classifier.explain(std::string_view("great\0plot", 10)).words().size() > 1);
    const nimbert::Classifier pairs(folder + "/../bundle-2");
    const nimbert::Explanation both = pairs.explain({"na\xc3\xafve film", "a plot"});
    CHECK(both.words().size() == 4 && !both.words()[1].is_of_pair && both.words()[1].start == 7);
    CHECK(both.words()[2].is_of_pair && both.words()[2].start == 0 && both.words()[3].end == 6);
    nimbert::Explanation moved = classifier.explain(text);
    nimbert::Explanation target = std::move(moved);
    CHECK(target.prediction().label_id() == target.label_id() && target.words().size() == 3);
}

static void objects_move(const std::string &folder) {
    nimbert::Classifier first(folder);
    nimbert_classifier *handle = first.handle();
    nimbert::Classifier second = std::move(first);
    CHECK(first.handle() == nullptr && second.handle() == handle); // NOLINT: it was moved
    CHECK(code_of([&] { first.classify("great"); }) == NIMBERT_INVALID_HANDLE);
    nimbert::Results results = second.classify("great");
    const std::string label(results[0].label());
    nimbert::Results moved = std::move(results);
    CHECK(moved[0].label() == label);
    second = nimbert::Classifier(folder);
    // What was assigned to is closed.
    CHECK(nimbert_close(handle) == NIMBERT_INVALID_HANDLE);
    CHECK(moved[0].label() == label);
}

static void calls_are_waited_for(const nimbert::Classifier &classifier) {
    const std::vector<nimbert::Input> many(50000, "this film was a terrible masterpiece");
    nimbert::Call call = classifier.submit({"great", "bad"});
    CHECK(call.wait().size() == 2);
    CHECK(call.wait_for(std::chrono::milliseconds(0))->size() == 2);
    nimbert::Call long_call = classifier.submit(many);
    CHECK(!long_call.wait_for(std::chrono::milliseconds(0)));
    long_call.cancel();
    CHECK(code_of([&] { long_call.wait(); }) == NIMBERT_CANCELLED);
}

static void callbacks_get_outcomes(const std::string &folder) {
    const std::vector<nimbert::Input> many(50000, "this film was a terrible masterpiece");
    std::promise<std::size_t> size;
    std::promise<nimbert_code> code;
    std::atomic<int> late{0};
    {
        nimbert::Classifier classifier(folder);
        nimbert::Canceller done = classifier.submit({"great", "bad"}, [&](nimbert::Outcome outcome) {
            size.set_value(std::move(outcome).get().size());
        });
        CHECK(size.get_future().get() == 2);
        done.cancel();
        nimbert::Canceller canceller = classifier.submit(many, [&](nimbert::Outcome outcome) {
            code.set_value(code_of([&] { std::move(outcome).get(); }));
        });
        canceller.cancel();
        CHECK(code.get_future().get() == NIMBERT_CANCELLED);
        classifier.submit(many, [&](nimbert::Outcome) { late++; });
    }
    // Its callback came before the classifier was gone.
    CHECK(late == 1);
}

static void memory_is_opened(const std::string &file, const nimbert::Classifier &classifier) {
    std::ifstream stream(file, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(stream), {}};
    nimbert::Classifier in_memory(bytes.data(), bytes.size(), nimbert::Options().set("threads", "1"));
    CHECK(in_memory.labels() == classifier.labels());
    CHECK(in_memory.classify("great")[0].label() == classifier.classify("great")[0].label());
}

int main(int argc, char **argv) {
    if (argc != 4) {
        std::cerr << "usage: cpp FOLDER FILE LIBRARY\n";
        return 2;
    }
    const std::string folder = argv[1], file = argv[2];
    nimbert::set_library_path(argv[3]);
    const nimbert::Classifier classifier(folder, nimbert::Options().set("threads", "2"));
    errors_are_exceptions(folder, classifier);
    results_are_iterated(classifier);
    some_bundles_say_more(folder, classifier);
    some_bundles_have_several_tasks(folder, classifier);
    words_explain_answers(folder, classifier);
    objects_move(folder);
    calls_are_waited_for(classifier);
    callbacks_get_outcomes(folder);
    memory_is_opened(file, classifier);
    std::cout << (failures == 0 ? "all checks passed\n" : "");
    return failures == 0 ? 0 : 1;
}
