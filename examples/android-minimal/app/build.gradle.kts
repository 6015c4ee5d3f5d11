import org.jetbrains.kotlin.gradle.dsl.JvmTarget

plugins {
    id("com.android.application")
    id("org.jetbrains.kotlin.android")
}

android {
    namespace = "dev.mobilebundle.minimal"
    compileSdk = 36
    defaultConfig {
        minSdk = 26
        targetSdk = 36
    }
    compileOptions {
        sourceCompatibility = JavaVersion.VERSION_11
        targetCompatibility = JavaVersion.VERSION_11
    }
    // The runner is a program: the installer has to unpack it.
    packaging.jniLibs.useLegacyPackaging = true
}

kotlin.compilerOptions.jvmTarget = JvmTarget.JVM_11

dependencies {
    implementation("dev.mobilebundle:lm-ktx:0.1.0")
    implementation("org.jetbrains.kotlinx:kotlinx-coroutines-android:1.10.2")
}
