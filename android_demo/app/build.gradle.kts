import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

// What `make apk` in the folder above has prepared: the runners, and the bundles that the tests import.
val inputs = rootDir.resolve("../build/apk")

android {
    namespace = "dev.mobilebundle.demo"
    compileSdk = 36
    defaultConfig {
        minSdk = 26
        targetSdk = 36
        versionCode = 1
        versionName = "0.1.0"
    }
    flavorDimensions += "network"
    productFlavors {
        create("none") { isDefault = true }
        create("online")
    }
    buildTypes.getByName("release") {
        isMinifyEnabled = true
        proguardFiles("proguard-rules.pro")
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
    sourceSets.getByName("main").jniLibs.srcDir(inputs.resolve("jniLibs"))
    // Unpacked by the installer: a program can only be started from a file.
    packaging.jniLibs.useLegacyPackaging = true
    testOptions.unitTests {
        isIncludeAndroidResources = true
        all {
            it.maxHeapSize = "2g"
            it.systemProperty("test.inputs", inputs.path)
            it.systemProperty("screenshot.dir", inputs.resolve("screenshots").path)
        }
    }
}

kotlin.compilerOptions.jvmTarget = JvmTarget.JVM_11

dependencies {
    implementation(project(":lm"))
    implementation("org.commonmark:commonmark:0.28.0")
    testImplementation(project(":lm-ktx"))
    testImplementation("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.10.2")
    testImplementation("junit:junit:4.13.2")
    testImplementation("org.robolectric:robolectric:4.17")
}
