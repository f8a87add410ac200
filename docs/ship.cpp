// A classifier of `python main.py export --format=ncnn` in C++, with nothing but ncnn; docs/ship.md tells how it is built.
//     ./ship model cat dog -- cat.jpg dog.jpg
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "net.h"
#include "simpleocv.h"

// What hearth.json in the exported file says of its pictures; these are a classifier's by default.
const int WIDTH = 224, HEIGHT = 224;
const double CENTER_CROP = 1.0;

// Resize bilinearly with antialiasing, which ncnn's own has not: `count` lines of `from` pixels -> of `to` pixels, of
// three channels. Line l's pixel p stands at values[l * line + p * pixel]; the result's lines are its columns.
std::vector<float> resized(const std::vector<float>& values, int count, int line, int from, int pixel, int to)
{
    std::vector<float> out(count * to * 3);
    double step = double(from) / to, reach = std::max(1.0, step);
    for (int i = 0; i < to; i++) {
        double centre = (i + 0.5) * step, total = 0;
        int first = std::max(0, int(std::lround(centre - reach))), last = std::min(from, int(std::lround(centre + reach)));
        for (int p = first; p < last; p++) total += std::max(0.0, 1 - std::fabs(p + 0.5 - centre) / reach);
        for (int p = first; p < last; p++) {
            float weight = std::max(0.0, 1 - std::fabs(p + 0.5 - centre) / reach) / total;
            for (int l = 0; l < count; l++)
                for (int c = 0; c < 3; c++) out[(i * count + l) * 3 + c] += weight * values[l * line + p * pixel + c];
        }
    }
    return out;
}

// The middle of a picture, 0 to 255, as the model takes it.
ncnn::Mat prepared(const cv::Mat& picture)
{
    double scale = CENTER_CROP * std::min(double(picture.cols) / WIDTH, double(picture.rows) / HEIGHT);
    int w = std::lround(WIDTH * scale), h = std::lround(HEIGHT * scale);
    int left = (picture.cols - w) / 2, top = (picture.rows - h) / 2;
    std::vector<float> pixels(h * w * 3);
    for (int y = 0; y < h; y++)
        for (int x = 0; x < w; x++)
            for (int c = 0; c < 3; c++)  // blue, green, red -> red, green, blue
                pixels[(y * w + x) * 3 + c] = picture.data[((top + y) * picture.cols + left + x) * 3 + 2 - c];
    std::vector<float> columns = resized(pixels, h, w * 3, w, 3, WIDTH);  // [WIDTH, h, 3]
    std::vector<float> rows = resized(columns, WIDTH, h * 3, h, 3, HEIGHT);  // [HEIGHT, WIDTH, 3]
    ncnn::Mat input(WIDTH, HEIGHT, 3);
    for (int c = 0; c < 3; c++)
        for (int i = 0; i < WIDTH * HEIGHT; i++)
            input.channel(c)[i] = std::round(rows[i * 3 + c]);
    return input;
}

int main(int count, char** words)
{
    std::vector<std::string> given(words + 1, words + count), classes;
    auto bar = std::find(given.begin(), given.end(), "--");
    if (given.empty() || bar == given.end()) return fprintf(stderr, "usage: ship model CLASS... -- PICTURE...\n"), 2;
    classes.assign(given.begin() + 1, bar);
    ncnn::Net net;
    net.opt.use_fp16_packed = net.opt.use_fp16_storage = net.opt.use_fp16_arithmetic = net.opt.use_bf16_storage = false;
    if (net.load_param((given[0] + ".param").c_str()) || net.load_model((given[0] + ".bin").c_str())) return 2;
    for (auto path = bar + 1; path != given.end(); path++) {
        cv::Mat picture = cv::imread(*path, cv::IMREAD_COLOR);
        if (picture.empty()) { fprintf(stderr, "%s cannot be read\n", path->c_str()); continue; }
        ncnn::Extractor run = net.create_extractor();
        ncnn::Mat probabilities;
        run.input("in0", prepared(picture));
        run.extract("out0", probabilities);
        int best = std::max_element((float*)probabilities, (float*)probabilities + probabilities.w) - (float*)probabilities;
        printf("%s %s %.4f\n", path->c_str(), classes.at(best).c_str(), probabilities[best]);
    }
}
