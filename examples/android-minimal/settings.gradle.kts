pluginManagement {
    repositories {
        google()
        mavenCentral()
    }
}

dependencyResolutionManagement {
    repositories {
        maven { url = uri("../../build/maven") } // where `make aar` puts the library
        google()
        mavenCentral()
    }
}

rootProject.name = "android-minimal"
include(":app")
