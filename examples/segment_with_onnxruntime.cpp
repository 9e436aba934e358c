// Labels of a PPM image (P6) with ONNX Runtime's C++ API:
//   g++ -std=c++17 segment.cpp -I onnxruntime/include -L onnxruntime/lib -lonnxruntime -o segment
//   ./segment model.onnx photo.ppm labels.pgm
#include <array>
#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include <onnxruntime_cxx_api.h>

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  std::ifstream file(argv[2], std::ios::binary);
  std::string kind;
  int64_t width, height, largest;
  file >> kind >> width >> height >> largest;
  if (kind != "P6" || largest != 255) return 1;
  file.get();
  std::vector<uint8_t> pixels(height * width * 3);
  file.read(reinterpret_cast<char*>(pixels.data()), pixels.size());

  Ort::Env env;
  Ort::Session session(env, argv[1], Ort::SessionOptions{});
  std::array<int64_t, 4> shape{1, height, width, 3};  // uint8 RGB, (N, H, W, 3)
  auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
  auto images = Ort::Value::CreateTensor<uint8_t>(
      memory, pixels.data(), pixels.size(), shape.data(), shape.size());
  const char* inputs[] = {"images"};
  const char* outputs[] = {"labels"};
  auto found = session.Run(Ort::RunOptions{}, inputs, &images, 1, outputs, 1);
  const uint8_t* labels = found[0].GetTensorData<uint8_t>();  // (1, H, W)

  std::ofstream out(argv[3], std::ios::binary);
  out << "P5\n" << width << ' ' << height << "\n255\n";
  out.write(reinterpret_cast<const char*>(labels), height * width);
}
