// From C++17: one text, several at once, a call that is given up, an error.
//
//     c++ -std=c++17 classify.cpp -o classify $(pkg-config --cflags --libs nimbert)
//     ./classify reviews.nimbert

#include <iomanip>
#include <iostream>
#include <nimbert.hpp>
#include <string>
#include <vector>

static void print(const nimbert::Results &results) {
    for (const nimbert::Prediction &prediction : results) {
        std::cout << prediction.label() << ' ' << prediction.score() << '\n';
    }
}

static void run(const std::string &bundle) {
    const nimbert::Options options = nimbert::Options().set("threads", "2");
    const nimbert::Classifier classifier(bundle, options);
    print(classifier.classify("I love this movie!"));
    print(classifier.classify_batch({"dull", "a delight from start to finish", "well, it ends"}));

    // Texts are copied, and the call goes on by itself. A callback, as the second argument, would be told of its end.
    const std::vector<nimbert::Input> many(20000, "a long story that nobody waits for");
    const nimbert::Call call = classifier.submit(many);
    call.cancel();
    try {
        print(call.wait());
    } catch (const nimbert::Error &error) {
        if (error.code() != NIMBERT_CANCELLED) throw;
        std::cout << "cancelled\n";
    }

    try {
        nimbert::Classifier("nowhere.nimbert", options);
    } catch (const nimbert::Error &error) {
        if (error.code() != NIMBERT_IO) throw;
        std::cout << "io: " << error.what() << '\n';
    }
}

int main(int argc, char **argv) {
    std::cout << std::fixed << std::setprecision(3);
    try {
        run(argc > 1 ? argv[1] : "reviews.nimbert");
    } catch (const nimbert::Error &error) {
        std::cerr << "classify: error: " << error.what() << '\n';
        return 1;
    }
}
