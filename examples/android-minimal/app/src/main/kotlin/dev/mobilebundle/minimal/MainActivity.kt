package dev.mobilebundle.minimal

import android.app.Activity
import android.content.ComponentCallbacks2
import android.content.Intent
import android.net.Uri
import android.os.Bundle
import android.widget.*
import dev.mobilebundle.lm.*
import dev.mobilebundle.lm.ktx.answer
import dev.mobilebundle.lm.ktx.bundles
import dev.mobilebundle.lm.ktx.importFrom
import dev.mobilebundle.lm.ktx.open
import java.io.File
import kotlinx.coroutines.*

/** Imports a model, and answers: all that an app needs of the library. */
class MainActivity : Activity() {
    private val scope = CoroutineScope(Dispatchers.Main)
    private val store by lazy { BundleStore(File(filesDir, "bundles")) }
    private val model by lazy { RunnerLanguageModel(this) }
    private val conversation = ArrayList<Message>()
    private lateinit var text: TextView
    private lateinit var question: EditText
    private var work: Job? = null

    override fun onCreate(savedInstanceState: Bundle?) {
        super.onCreate(savedInstanceState)
        text = TextView(this)
        question = EditText(this).apply { hint = "Message" }
        setContentView(
            LinearLayout(this).apply {
                orientation = LinearLayout.VERTICAL
                fitsSystemWindows = true
                addView(ScrollView(context).apply { addView(text) }, LinearLayout.LayoutParams(LinearLayout.LayoutParams.MATCH_PARENT, 0, 1f))
                addView(question)
                addView(button("Send") { send(question.text.toString()) })
                addView(button("Stop") { work?.cancel() })
                addView(button("Import a model") { pick() })
            },
        )
        run { store.bundles().firstOrNull()?.let { show("${model.open(it.directory)}\n") } ?: show("Import a model first.\n") }
    }

    private fun button(label: String, onClick: () -> Unit) = Button(this).apply {
        text = label
        setOnClickListener { onClick() }
    }

    private fun show(more: String) = text.append(more)

    /** One thing after the other; what goes wrong is an exception that says why. */
    private fun run(what: suspend () -> Unit) {
        work?.cancel()
        work = scope.launch {
            try {
                what()
            } catch (e: ModelError) {
                show("\n$e\n")
            } catch (e: ImportError) {
                show("\n${e.message}\n")
            }
        }
    }

    private fun send(words: String) = run {
        conversation += Message(Role.USER, words)
        show("\n$words\n\n")
        val answer = model.answer(GenerationRequest.Chat(conversation.toList(), maxNewTokens = 128)) { show(it) }
        conversation += Message(Role.ASSISTANT, answer.text)
        show("\n(${answer.stats.tokens} tokens)\n")
    }

    @Suppress("DEPRECATION") // what replaces it is in a library
    private fun pick() =
        startActivityForResult(Intent(Intent.ACTION_OPEN_DOCUMENT).addCategory(Intent.CATEGORY_OPENABLE).setType("*/*"), 1)

    @Deprecated("what replaces it is in a library")
    override fun onActivityResult(request: Int, result: Int, data: Intent?) {
        data?.data?.let { import(it) }
    }

    private fun import(uri: Uri) = run {
        val bundle = store.importFrom(this, uri)
        show("${model.open(bundle.directory)}\n")
    }

    /** The model's memory is given back; the next message starts it again. */
    override fun onTrimMemory(level: Int) {
        super.onTrimMemory(level)
        if (level >= ComponentCallbacks2.TRIM_MEMORY_BACKGROUND) model.release(ReleaseReason.LOW_MEMORY)
    }

    override fun onDestroy() {
        scope.cancel()
        model.close()
        super.onDestroy()
    }
}
