package dev.mobilebundle.demo

import java.io.File

/** What the build prepared for the tests (`make apk-test`). */
object Inputs {
    private val directory = File(checkNotNull(System.getProperty("test.inputs")) { "run the tests by `make apk-test`" })

    /** The very program that the APK carries for this machine's ABI, under its name there. */
    val programs = File(directory, "jniLibs/x86_64")

    /** The example model, as downloaded: it continues texts. */
    val textModel = File(directory, "wiki-6m.mbundle.zip")

    /** The same with its weights as they are computed with: nothing to decode. */
    val textModelPacked = File(directory, "wiki-6m-packed.mbundle.zip")

    /** The same with a chat template. */
    val chatModel = File(directory, "wiki-6m-chat.mbundle.zip")

    /** The same with a chat template that can have the model think first. */
    val thinkingModel = File(directory, "wiki-6m-thinking.mbundle.zip")

    /** SmolLM2-135M-Instruct, which only `make screenshots` prepares. */
    val realModel = File(directory, "smollm2.mbundle.zip")
}
