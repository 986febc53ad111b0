// swift-tools-version:5.9

import PackageDescription

let package = Package(
    name: "CarRPC",
    platforms: [.macOS(.v13)],
    products: [.library(name: "CarRPC", targets: ["CarRPC"])],
    targets: [.target(name: "CarRPC")]
)
