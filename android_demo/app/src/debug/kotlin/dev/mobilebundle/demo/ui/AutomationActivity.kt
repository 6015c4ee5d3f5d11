package dev.mobilebundle.demo.ui

import android.app.Activity
import android.os.Bundle
import android.widget.TextView
import dev.mobilebundle.demo.DemoApplication
import dev.mobilebundle.lm.BundleImporter
import dev.mobilebundle.lm.GenerationEvent
import dev.mobilebundle.lm.GenerationRequest
import dev.mobilebundle.lm.GenerationStats
import dev.mobilebundle.lm.ImportError
import dev.mobilebundle.lm.Message
import dev.mobilebundle.lm.Role
import dev.mobilebundle.lm.RunnerLanguageModel
import dev.mobilebundle.lm.StoredBundle
import java.io.File
import java.io.IOException
import kotlin.concurrent.thread
import org.json.JSONObject

/**
 * Drives the app from adb, end to end: imports a bundle, sends a prompt, writes what came as JSON. android_demo/README.md
 * has the commands. Only debug builds have it, and only adb's shell has the permission that its manifest asks of callers.
 */
class AutomationActivity : Activity() {
    private val app get() = application as DemoApplication
    private val model by lazy { RunnerLanguageModel(app, owner = "automation") }
    private val status by lazy { TextView(this) }
    private val result = JSONObject()
    private val text = StringBuilder()

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        setContentView(status)
        if (savedInstanceState != null) return finish()
        app.chat.close()
        val bundle = intent.getStringExtra("bundle").orEmpty()
        if (bundle.endsWith(".zip")) importThenAsk(File(bundle)) else app.bundles.find(bundle) { ask(it) }
    }

    override fun onDestroy() {
        model.close()
        super.onDestroy()
    }

    private fun say(what: String) {
        status.text = what
    }

    private fun importThenAsk(zip: File) {
        say("importing ${zip.name}")
        val begin = System.nanoTime()
        thread(name = "automation") {
            try {
                val bundle = BundleImporter(app.store, app.memory(), app.program).import(zip.inputStream())
                app.bundles.refresh()
                app.main.execute {
                    result.put("import_seconds", (System.nanoTime() - begin) / 1e9)
                    ask(bundle)
                }
            } catch (e: ImportError) {
                app.main.execute { fail("${e.javaClass.simpleName}: ${e.message}") }
            } catch (e: IOException) {
                app.main.execute { fail("${e.message}") }
            }
        }
    }

    private fun ask(bundle: StoredBundle?) {
        if (bundle == null) return fail("no such bundle")
        say("asking ${bundle.id}")
        result.put("bundle", bundle.id)
        val prompt = intent.getStringExtra("prompt").orEmpty()
        val most = intent.getIntExtra("max_new_tokens", MOST_TOKENS)
        model.load(bundle.directory, app.settings.loadOptions(bundle.manifest.longestContext))
        val request = if (bundle.manifest.hasChatTemplate) {
            GenerationRequest.Chat(listOf(Message(Role.USER, prompt)), most)
        } else {
            GenerationRequest.Text(prompt, most)
        }
        model.generate(request) { event ->
            when (event) {
                is GenerationEvent.Reading, is GenerationEvent.Started -> Unit
                is GenerationEvent.Text -> text.append(event.text)
                is GenerationEvent.Finished -> succeed(event.stats)
                is GenerationEvent.Failed -> fail(event.error.toString())
            }
        }
    }

    private fun succeed(stats: GenerationStats) {
        result.put("text", text.toString())
            .put("reason", stats.reason.name)
            .put("prompt_tokens", stats.promptTokens)
            .put("tokens", stats.tokens)
            .put("tokens_per_second", stats.tokensPerSecond)
            .put("prompt_tokens_per_second", stats.promptTokensPerSecond)
            .put("first_token_seconds", stats.firstTokenSeconds)
            .put("peak_rss_bytes", stats.memory.peakBytes)
            .put("anon_bytes", stats.memory.anonymousBytes)
            .put("swap_bytes", stats.memory.swappedBytes)
            .put("major_faults", stats.memory.majorFaults)
        write("done")
    }

    private fun fail(why: String) {
        result.put("text", text.toString()).put("error", why)
        write("failed")
    }

    /** Under its name the file is always whole: whoever waits for it may read it at once. */
    private fun write(status: String) {
        result.put("status", status)
        say(status)
        thread(name = "automation-result") {
            writeFile()
            app.main.execute { finish() }
        }
    }

    private fun writeFile() {
        val name = intent.getStringExtra("result").orEmpty().ifEmpty { "result" }.replace(Regex("[^A-Za-z0-9_-]"), "_")
        val file = File(File(filesDir, "automation"), "$name.json")
        file.parentFile?.mkdirs()
        val partial = File(file.path + ".part")
        partial.writeText(result.toString(2))
        partial.renameTo(file)
    }

    private companion object {
        const val MOST_TOKENS = 64
    }
}
